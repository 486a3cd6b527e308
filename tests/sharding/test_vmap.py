"""vmap on meshes: mapped axes in parts, beside parts of the batch, and in and around shard_map."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from meshes import AUTO, EXPLICIT, case, check, collectives, custom_calls, gradients, mesh

import jax_fa4
from jax_fa4.testing import inputs

CASE = case("mapped", batch=8, heads=4, heads_kv=2, causal=True)
V, B = 2, 4  # of a batch of 8


def attend(implementation):
    def run(q, k, v):
        return jax_fa4.flash_attention(
            q, k, v, causal=True, return_lse=True, implementation=implementation
        )

    return run


def split(x):
    """The batch as (V, B)."""
    return inputs.Inputs(*(a.reshape(V, B, *a.shape[1:]) for a in x))


def joined(found):
    return [np.asarray(a).reshape(V * B, *a.shape[2:]) for a in found]


def placed(x, devices, spec):
    return jax.device_put(x, NamedSharding(devices, spec))


@pytest.fixture
def x():
    return inputs.make(CASE, jnp.bfloat16)


@pytest.mark.parametrize("spec", [P("x"), P(None, "x"), P("x", "y")], ids=str)
@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
def test_mapped_and_batch_axes_in_parts(kind, spec, x, implementation):
    """No fold of the mapped axis into the batch moves data between devices."""
    devices = mesh(kind, (2, 4), ("x", "y"))
    laid = placed(split(x), devices, spec)
    compiled = jax.jit(jax.vmap(gradients(attend(implementation)))).lower(laid).compile()
    found = compiled(laid)
    check(joined(found), CASE, x)
    if implementation != "xla":
        assert not collectives(compiled)
        assert all(len(a.sharding.device_set) == 8 for a in found)


def test_a_device_folds_its_part(x, emulated):
    devices = mesh(AUTO, (2, 4), ("x", "y"))
    laid = placed(split(x), devices, P(None, "y"))
    compiled = jax.jit(jax.vmap(gradients(attend(emulated)))).lower(laid).compile()
    part = f"bf16[{V * B // 4},{CASE.query_length},4,64]"
    assert custom_calls(compiled) == [("fwd", part), ("bwd", part)]


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT], ids=["auto", "explicit"])
@pytest.mark.parametrize("shared", ["q", "k", "v", "kv"])
def test_operands_that_are_not_mapped(kind, shared, x, implementation):
    """Their gradients are the sums over the mapped axis."""
    devices = mesh(kind, (2, 4), ("x", "y"))
    arrays = {name: getattr(split(x), name) for name in "qkv"}
    arrays |= {name: arrays[name][0] for name in shared}
    axes = tuple(None if name in shared else 0 for name in "qkv")
    specs = {name: P("y") if name in shared else P(None, "y") for name in "qkv"}

    def loss(run, q, k, v):
        out, lse = run(q, k, v)
        return (out.astype(jnp.float32) ** 2).sum() + lse.sum()

    def mapped(q, k, v):
        return jax.vmap(attend(implementation), axes)(q, k, v)

    def looped(q, k, v):
        def one(i, *qkv):
            return attend("xla")(
                *(a if axis is None else a[i] for a, axis in zip(qkv, axes, strict=True))
            )

        rows = [one(i, q, k, v) for i in range(V)]
        return [jnp.stack(a) for a in zip(*rows, strict=True)]

    laid = [placed(arrays[name], devices, specs[name]) for name in "qkv"]
    run = jax.grad(loss, argnums=(1, 2, 3))
    wide = [a.astype(jnp.float32) for a in arrays.values()]
    exact = run(looped, *wide)
    found = jax.jit(run, static_argnums=0)(mapped, *laid)
    plain = run(looped, *arrays.values())
    for a, b, c in zip(found, plain, exact, strict=True):
        a, b, c = (np.asarray(n, np.float32) for n in (a, b, c))
        allowed = 2 * np.abs(b - c).max() + np.abs(c).max() * 2.0**-8
        assert np.abs(a - c).max() <= allowed


def test_spmd_axis_name(x, emulated):
    """A shard_map under vmap whose mapped axis lies on a mesh axis."""
    devices = mesh(AUTO, (2, 4), ("x", "y"))
    laid = placed(split(x), devices, P("x", "y"))
    run = jax.shard_map(
        gradients(attend(emulated)), mesh=devices, in_specs=(P("y"),), out_specs=P("y")
    )
    compiled = jax.jit(jax.vmap(run, spmd_axis_name="x")).lower(laid).compile()
    check(joined(compiled(laid)), CASE, x)
    assert not collectives(compiled)


def test_vmap_in_a_shard_map(x, implementation):
    devices = mesh(AUTO, (2, 4), ("x", "y"))
    spec = P("x", "y")
    run = jax.shard_map(
        jax.vmap(gradients(attend(implementation))),
        mesh=devices,
        in_specs=(spec,),
        out_specs=spec,
    )
    check(joined(jax.jit(run)(placed(split(x), devices, spec))), CASE, x)


@pytest.mark.filterwarnings("ignore:jax_fa4. axes")
def test_a_shard_map_that_leaves_axes_to_the_compiler(x, emulated):
    """Right, though every device computes all along them: the warning is in test_explicit."""
    devices = mesh(AUTO, (2, 4), ("x", "y"))
    run = jax.shard_map(
        gradients(attend(emulated)),
        mesh=devices,
        in_specs=(P("x"),),
        out_specs=P("x"),
        axis_names={"x"},
    )
    check(jax.jit(run)(placed(x, devices, P(("x", "y")))), CASE, x)


def test_jacrev(implementation):
    """The backward mapped over its cotangents alone, of sequences on two devices."""
    devices = mesh(AUTO, (2,), ("x",))
    x = inputs.make(
        case("rows", query_length=3, key_length=5, batch=2, heads=2, heads_kv=1), jnp.bfloat16
    )
    run = lambda name: jax.jacrev(lambda *qkv: attend(name)(*qkv)[1][:, :, 0], (0, 1))  # noqa: E731
    wide = [a.astype(jnp.float32) for a in x[:3]]
    found = jax.jit(run(implementation))(*(placed(a, devices, P("x")) for a in x[:3]))
    for a, b, c in zip(found, run("xla")(*x[:3]), run("xla")(*wide), strict=True):
        a, b, c = (np.asarray(jax.device_get(n), np.float32) for n in (a, b, c))
        assert np.abs(a - c).max() <= 2 * np.abs(b - c).max() + np.abs(c).max() * 2.0**-8


def test_arrays_are_folded_without_copies(x, emulated):
    """The program has what that of one larger batch has, and views."""

    def operations(function, x):
        text = jax.jit(function).lower(x).compile().as_text()
        names = re.findall(r"= bf16\[[^=]* ([a-z-]+)\(", text)
        return Counter(name for name in names if name not in ("bitcast", "parameter"))

    run = gradients(attend(emulated))
    whole = operations(run, x)
    assert operations(jax.vmap(run), split(x)) == whole
    copied = operations(lambda x: jax.tree.map(lambda a: jnp.roll(a, 1, 1), run(x)), x)
    assert copied != whole  # it does see operations
