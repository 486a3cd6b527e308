"""Calls with segment ids and lengths under vmap, grad, scan, remat and shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import jax_fa4
from jax_fa4.testing import inputs
from jax_fa4.testing.inputs import Case

SELF = Case(name="self", query_length=90, key_length=90, heads=2, head_dim=16, causal=True)
IDS = np.repeat([[1, 2, 5], [0, 3, 1]], 30, axis=1).astype(np.int32)
X = inputs.make(SELF, jnp.float32)


def loss(q, k, v, ids, lengths):
    out, lse = jax_fa4.dot_product_attention(
        q,
        k,
        v,
        query_segment_ids=ids,
        key_value_seq_lengths=lengths,
        is_causal=True,
        return_residual=True,
    )
    weights = jnp.arange(out.size, dtype=jnp.float32).reshape(out.shape) / out.size
    return (out * weights).sum() + jnp.where(jnp.isfinite(lse), lse, 0).sum()


@pytest.mark.parametrize("axes", [(0, 0, 0, 0, 0), (0, None, None, None, 0), (None, 0, 0, 0, None)])
def test_vmap_of_gradient_is_a_loop(axes):
    arrays = (*X[:3], jnp.asarray(IDS), jnp.array([90, 50]))
    stacked = [
        a if axis is None else jnp.stack([a, jnp.roll(a, 1, 0), a[::-1]])
        for a, axis in zip(arrays, axes, strict=True)
    ]
    gradient = jax.grad(loss, argnums=(0, 1, 2))
    found = jax.vmap(gradient, axes)(*stacked)
    for i in range(3):
        one = gradient(*(a if x is None else a[i] for a, x in zip(stacked, axes, strict=True)))
        for a, b in zip(found, one, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-5)


def test_integers_have_float0_cotangents():
    arguments = (*X[:3], jnp.asarray(IDS), jnp.array([90, 50]))
    *_, ids, lengths = jax.grad(loss, argnums=(0, 1, 2, 3, 4), allow_int=True)(*arguments)
    assert ids.dtype == lengths.dtype == jax.dtypes.float0


def test_scan_and_remat_under_jit():
    @jax.jit
    def run(x, ids):
        def layer(x, _):
            return jax_fa4.dot_product_attention(x, x, x, query_segment_ids=ids), None

        return jax.lax.scan(jax.checkpoint(layer), x, None, length=2)[0].sum()

    assert jnp.isfinite(jax.grad(run)(X.q, IDS)).all()


def test_second_derivative():
    small = (*(a[:1, :6, :, :4] for a in X[:3]), IDS[:1, 28:34], jnp.array([5]))
    found = jax.jit(jax.hessian(loss))(*small)
    step = 1e-2 * jax.random.normal(jax.random.key(0), small[0].shape)
    gradient = jax.grad(loss)
    change = gradient(small[0] + step, *small[1:]) - gradient(small[0] - step, *small[1:])
    wanted = jnp.tensordot(found, 2 * step, axes=step.ndim)
    np.testing.assert_allclose(change, wanted, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_shard_map(shared):
    """Lengths and ids that differ between devices, or that all devices share."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:2])
    ids, lengths = (jnp.asarray(IDS), jnp.array([90, 50]))
    spec, other = PartitionSpec("x"), PartitionSpec() if shared else PartitionSpec("x")
    if shared:
        ids, lengths = ids[:1], lengths[:1]

    def local(q, k, v, ids, lengths):
        return jax.lax.psum(loss(q, k, v, ids, lengths), "x")

    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=(spec, spec, spec, other, other), out_specs=PartitionSpec()
    )
    ours = jax.jit(jax.grad(sharded, argnums=(0, 1, 2)))(*X[:3], ids, lengths)

    def whole(*qkv):
        parts = (
            loss(
                *(a[n : n + 1] for a in qkv),
                *(a[n * (not shared)][None] for a in (ids, lengths)),
            )
            for n in range(2)
        )
        return sum(parts)

    for a, b in zip(ours, jax.grad(whole, argnums=(0, 1, 2))(*X[:3]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_gradient_over_many_blocks_in_shard_map():
    """The loop over needed blocks, its trip count differing between devices."""
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:2])
    q = jax.random.normal(jax.random.key(0), (2, 640, 1, 8))
    ids = jnp.asarray(np.repeat([[0, 1, 2, 3], [0, 0, 1, 1]], 160, axis=1))
    spec = PartitionSpec("x")

    def local(q, ids):
        return jax.lax.psum(loss(q, q, q, ids, jnp.array([600])), "x")

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(spec, spec), out_specs=PartitionSpec())
    ours = jax.jit(jax.grad(sharded))(q, ids)

    def whole(q):
        return sum(loss(*[q[n : n + 1]] * 3, ids[n : n + 1], jnp.array([600])) for n in range(2))

    np.testing.assert_allclose(ours, jax.grad(whole)(q), rtol=1e-4, atol=1e-5)
