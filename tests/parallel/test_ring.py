"""Ring attention on fake CPU devices: the same as on one, whatever layout, mask and mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jax_fa4
from jax_fa4.parallel.layouts import LAYOUTS
from jax_fa4.testing import expected, inputs, meshes, tolerances

CASE = inputs.Case(
    name="ring", query_length=48, key_length=48, heads=4, heads_kv=2, head_dim=8, head_dim_v=12
)
MASKS = {
    "full": {},
    "causal": {"causal": True},
    "window": {"causal": True, "window": (9, None)},
    "two-sided": {"window": (4, 7)},
}


def options(case):
    """The case's mask as ring_attention and flash_attention say it."""
    return {"causal": case.causal, "window_size": case.window}


def check(case, over, dtype=jnp.float32, **more):
    """Values and gradients of the case, split over a mesh, by the rule of closeness."""
    x = inputs.make(case, dtype)
    attention = meshes.context_parallel(over, **options(case), **more)
    actual = expected.results(attention, x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


def square(attention, *arrays):
    out, lse = attention(*arrays)
    return (out**2).sum() + (lse**2).sum()


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_results(layout, mask):
    check(dataclasses.replace(CASE, **MASKS[mask]), meshes.mesh(context=4), layout=layout)


def test_eight_devices():
    case = dataclasses.replace(CASE, causal=True)
    check(case, meshes.mesh(context=8), layout="zigzag")


@pytest.mark.parametrize(("layout", "mask"), [("zigzag", "causal"), ("contiguous", "window")])
def test_bfloat16(layout, mask):
    case = dataclasses.replace(CASE, **MASKS[mask])
    check(case, meshes.mesh(context=4), jnp.bfloat16, layout=layout)


def test_one_device_is_flash_attention():
    x = inputs.make(CASE, jnp.float32)
    attention = meshes.context_parallel(meshes.mesh(context=1), layout="zigzag", causal=True)
    wanted = functools.partial(jax_fa4.flash_attention, causal=True, return_lse=True)
    found, expected_ = (expected.results(f, x, gradients=True) for f in (attention, wanted))
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected_[name])


def test_a_mesh_of_three_axes():
    """Batch over one, sequence over one, query and key heads over one."""
    case = dataclasses.replace(CASE, causal=True)
    over = meshes.mesh(data=2, context=2, model=2)
    spec = PartitionSpec("data", "context", "model")
    check(case, over, layout="zigzag", spec=spec)


def test_a_sequence_over_two_axes():
    """As over the nodes of a cluster and the devices of a node."""
    x = inputs.make(CASE, jnp.float32)
    over = meshes.mesh(node=2, device=2)
    laid = [jax_fa4.to_layout(a, "zigzag", 4) for a in x[:3]]
    attention = functools.partial(
        jax_fa4.context_parallel_attention,
        mesh=over,
        spec=PartitionSpec(None, ("node", "device")),
        layout="zigzag",
        causal=True,
    )
    found = jax_fa4.from_layout(jax.jit(attention)(*laid), "zigzag", 4)
    wanted = jax_fa4.flash_attention(*x[:3], causal=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_mesh_of_the_context():
    x = inputs.make(CASE, jnp.float32)
    with jax.set_mesh(meshes.mesh(context=2)):
        spec = PartitionSpec(None, "context")
        attention = functools.partial(
            jax_fa4.context_parallel_attention, spec=spec, layout="contiguous"
        )
        found = jax.jit(attention)(*x[:3])
    np.testing.assert_allclose(found, jax_fa4.flash_attention(*x[:3]), atol=1e-5)


@pytest.mark.parametrize("strategy", ["ring", "ulysses"])
def test_sinks(strategy):
    """A logit more in each row's softmax; its gradient sums over the mesh."""
    case = dataclasses.replace(CASE, causal=True)
    x = inputs.make(case, jnp.float32)
    sink = jnp.asarray([0.3, -1.0, 2.0, -jnp.inf])

    def plain(q, k, v, sink):
        out, lse = jax_fa4.flash_attention(q, k, v, causal=True, return_lse=True)
        weights = jnp.exp(lse - sink[None, :, None])  # of all keys, against the sink's 1
        share = jnp.where(jnp.isposinf(weights), 1.0, weights / (1 + weights))
        total = jnp.where(jnp.isposinf(weights), lse, jnp.log1p(weights) + sink[None, :, None])
        return out * share.transpose(0, 2, 1)[..., None], total

    def ours(q, k, v, sink):
        attention = meshes.context_parallel(
            meshes.mesh(data=2, context=2),
            spec=PartitionSpec("data", "context"),
            layout="zigzag",
            causal=True,
            strategy=strategy,
            learnable_sink=sink,
        )
        return attention(q, k, v)

    for a, b in zip(jax.jit(ours)(*x[:3], sink), plain(*x[:3], sink), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    finite = sink.at[3].set(0.5)
    loss = functools.partial(jax.grad, argnums=(0, 1, 2, 3))
    found = jax.jit(loss(functools.partial(square, ours)))(*x[:3], finite)
    wanted = loss(functools.partial(square, plain))(*x[:3], finite)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


def body(**options):
    """ring_attention inside the caller's own shard_map, over the axis "context"."""
    return functools.partial(
        jax_fa4.ring_attention, axis_name="context", layout="contiguous", causal=True, **options
    )


def mapped(function, arrays=3):
    spec = PartitionSpec(None, "context")
    return jax.shard_map(
        function,
        mesh=meshes.mesh(context=2),
        in_specs=(spec,) * arrays,
        out_specs=spec,
        check_vma=True,
    )


def test_scan_and_remat():
    """Layers whose carry is the queries, with and without saving out and lse."""
    case = dataclasses.replace(CASE, head_dim_v=8)
    x = inputs.make(case, jnp.float32)

    def layers(attend, q, k, v):
        def layer(x, _):
            return x + attend(x, k, v), None

        return jax.lax.scan(layer, q, None, length=3)[0]

    def loss(q, k, v, attend=None):
        run = layers if attend is None else functools.partial(layers, attend)
        return (run(q, k, v) ** 2).sum()

    wanted = jax.grad(loss, argnums=(0, 1, 2))(
        *x[:3], attend=functools.partial(jax_fa4.flash_attention, causal=True)
    )
    names = jax.checkpoint_policies.save_only_these_names(*jax_fa4.CHECKPOINT_NAMES)
    for policy in (None, names):
        attend = jax.checkpoint(body(), policy=policy)
        run = mapped(functools.partial(layers, attend))
        found = jax.jit(jax.grad(lambda *a, run=run: (run(*a) ** 2).sum(), argnums=(0, 1, 2)))(
            *x[:3]
        )
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("outside", "in_axes"), [(False, (0, 0, 0)), (False, (1, None, 0)), (True, (0, 0, 0))]
)
def test_vmap(outside, in_axes):
    """Inside shard_map and around it, shared keys too; batches of more than one."""
    x = inputs.make(CASE, jnp.float32)
    arrays = [
        a if axis is None else jnp.stack([a, 2 * a, -a], axis)
        for a, axis in zip(x[:3], in_axes, strict=True)
    ]
    one = jax.vmap(functools.partial(jax_fa4.flash_attention, causal=True), in_axes=in_axes)
    if outside:
        ours = jax.vmap(mapped(body()), in_axes=in_axes)
    else:
        specs = [PartitionSpec(*[None] * (1 + (axis is not None)), "context") for axis in in_axes]
        ours = jax.shard_map(
            jax.vmap(body(), in_axes=in_axes),
            mesh=meshes.mesh(context=2),
            in_specs=tuple(specs),
            out_specs=PartitionSpec(None, None, "context"),
        )

    def total(function, *arrays):
        return (function(*arrays) ** 2).sum()

    np.testing.assert_allclose(jax.jit(ours)(*arrays), one(*arrays), atol=1e-5)
    gradient = functools.partial(jax.grad, argnums=(0, 1, 2))
    found = jax.jit(gradient(functools.partial(total, ours)))(*arrays)
    wanted = gradient(functools.partial(total, one))(*arrays)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def test_keys_that_do_not_vary():
    """Keys that all devices hold alike: their gradient comes back summed, as their type says."""
    x = inputs.make(CASE, jnp.float32)
    half = CASE.key_length // 2
    k, v = x.k[:, :half], x.v[:, :half]
    spec, everywhere = PartitionSpec(None, "context"), PartitionSpec()
    ours = jax.shard_map(
        functools.partial(body(), causal=False),
        mesh=meshes.mesh(context=2),
        in_specs=(spec, everywhere, everywhere),
        out_specs=spec,
    )

    def total(function, *arrays):
        return (function(*arrays) ** 2).sum()

    def wanted(q, k, v):
        twice = (jnp.concatenate([a, a], 1) for a in (k, v))
        return jax_fa4.flash_attention(q, *twice)

    gradient = functools.partial(jax.grad, argnums=(0, 1, 2))
    found = jax.jit(gradient(functools.partial(total, ours)))(x.q, k, v)
    for a, b in zip(found, gradient(functools.partial(total, wanted))(x.q, k, v), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5, rtol=2e-5)


def test_residuals_are_a_devices_own():
    """q, k, v, out and lse: nothing that travelled is kept."""
    x = inputs.make(CASE, jnp.float32)
    kept = []

    def local(q, k, v):
        out, pull = jax.vjp(body(), q, k, v)
        kept.extend(a.size for a in jax.tree.leaves(pull))
        return out

    jax.eval_shape(mapped(local), *x[:3])
    rows = CASE.batch * CASE.query_length // 2
    one_array_each = rows * (4 * 8 + 2 * 8 + 2 * 12 + 4 * 12 + 4)
    assert sum(kept) == one_array_each


def test_refusals():
    x = inputs.make(CASE, jnp.float32)
    with pytest.raises(ValueError, match=r"axis_name='context' .* inside jax.shard_map"):
        body()(*x[:3])
    with pytest.raises(ValueError, match="layout is 'ring'"):
        mapped(functools.partial(body(), layout="ring"))(*x[:3])
    with pytest.raises(NotImplementedError, match=r"24 rows and k has 8 .* ulysses_attention"):
        mapped(body())(x.q, x.k[:, :16], x.v[:, :16])
    with pytest.raises(ValueError, match=r"21 rows a device .* multiple of 4"):
        mapped(functools.partial(body(), layout="zigzag"))(*(a[:, :42] for a in x[:3]))
    with pytest.raises(ValueError, match=r"learnable_sink has shape \(3,\), expected \(4,\)"):
        mapped(body(learnable_sink=jnp.zeros(3)))(*x[:3])
    with pytest.raises(NotImplementedError, match="float8_e4m3fn"):
        mapped(body())(*(a.astype(jnp.float8_e4m3fn) for a in x[:3]))
    call = functools.partial(
        jax_fa4.context_parallel_attention, *x[:3], mesh=meshes.mesh(context=2), layout="zigzag"
    )
    ids = jnp.zeros(x.q.shape[:2], jnp.int32)
    with pytest.raises(ValueError, match="key_value_segment_ids has shape"):
        mapped(body(key_value_segment_ids=ids))(*x[:3])
    with pytest.raises(ValueError, match=r"its second entry, is not split; .*data"):
        call(spec=PartitionSpec("context"))
    with pytest.raises(ValueError, match="a head dim is never split"):
        call(spec=PartitionSpec(None, "context", None, "context"))
    with pytest.raises(ValueError, match="it is not a"):
        call(spec=("data", "context"))
    with pytest.raises(ValueError, match="strategy is 'tree'"):
        call(spec=PartitionSpec(None, "context"), strategy="tree")
