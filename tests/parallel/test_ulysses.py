"""Attention by all-to-all on fake CPU devices: the same as on one, however few the key heads."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import jax_fa4
from jax_fa4.testing import expected, inputs, meshes, tolerances

CASE = inputs.Case(
    name="ulysses", query_length=32, key_length=32, heads=8, heads_kv=4, head_dim=8, head_dim_v=12
)
ULYSSES = functools.partial(meshes.context_parallel, strategy="ulysses")


def check(case, over, dtype=jnp.float32, **more):
    x = inputs.make(case, dtype)
    attention = ULYSSES(over, causal=case.causal, window_size=case.window, **more)
    actual = expected.results(attention, x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "striped"])
@pytest.mark.parametrize("causal", [False, True])
def test_results(layout, causal):
    case = dataclasses.replace(CASE, causal=causal, window=(11, None))
    check(case, meshes.mesh(context=4), layout=layout)


@pytest.mark.parametrize(
    ("heads", "heads_kv", "devices"),
    [(8, 2, 4), (8, 1, 8), (8, 2, 8), (12, 6, 4), (12, 4, 6), (24, 6, 4), (12, 3, 2)],
)
def test_key_heads_that_devices_do_not_divide(heads, heads_kv, devices):
    case = dataclasses.replace(
        CASE, heads=heads, heads_kv=heads_kv, causal=True, query_length=24, key_length=24
    )
    check(case, meshes.mesh(context=devices), layout="contiguous")


def test_unequal_lengths():
    """Causal with the last query at the last key, as flash_attention has it."""
    case = dataclasses.replace(CASE, query_length=16, causal=True)
    check(case, meshes.mesh(context=2), layout="contiguous")


def test_a_mesh_of_three_axes():
    case = dataclasses.replace(CASE, causal=True)
    spec = PartitionSpec("data", "context", "model")
    check(case, meshes.mesh(data=2, context=2, model=2), layout="zigzag", spec=spec)


def test_bfloat16():
    case = dataclasses.replace(CASE, causal=True)
    check(case, meshes.mesh(context=2), jnp.bfloat16, layout="contiguous")


def test_options_are_those_of_flash_attention():
    x = inputs.make(CASE, jnp.float32)
    options = {"softmax_scale": 0.2, "window_size": (5, 3), "implementation": "xla"}
    found = ULYSSES(meshes.mesh(context=2), layout="contiguous", **options)(*x[:3])
    wanted = jax_fa4.flash_attention(*x[:3], return_lse=True, **options)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    with pytest.raises(TypeError, match="dropout"):
        ULYSSES(meshes.mesh(context=2), layout="contiguous", dropout=0.1)(*x[:3])


def test_vmap_and_scan():
    x = inputs.make(dataclasses.replace(CASE, head_dim_v=8), jnp.float32)

    def layers(attend, q, k, v):
        return jax.lax.scan(lambda x, _: (x + attend(x, k, v), None), q, None, length=2)[0]

    def total(function, *arrays):
        return (jax.vmap(function)(*arrays) ** 2).sum()

    stacked = [jnp.stack([a, -a]) for a in x[:3]]
    spec = PartitionSpec(None, "context")
    attend = functools.partial(jax_fa4.ulysses_attention, axis_name="context", causal=True)
    ours = jax.shard_map(
        functools.partial(layers, attend),
        mesh=meshes.mesh(context=2),
        in_specs=(spec,) * 3,
        out_specs=spec,
        check_vma=True,
    )
    one = functools.partial(layers, functools.partial(jax_fa4.flash_attention, causal=True))
    gradient = functools.partial(jax.grad, argnums=(0, 1, 2))
    found = jax.jit(gradient(functools.partial(total, ours)))(*stacked)
    wanted = jax.jit(gradient(functools.partial(total, one)))(*stacked)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("heads_kv", "devices"), [(4, 2), (2, 4)])
def test_fp8(heads_kv, devices):
    """Each device takes the descales of its heads."""
    x = inputs.make(dataclasses.replace(CASE, heads_kv=heads_kv, head_dim_v=8), jnp.float32)
    arrays = [a.astype(jnp.float8_e4m3fn) for a in x[:3]]
    generator = np.random.default_rng(0)
    descales = {
        f"{name}_descale": jnp.asarray(generator.uniform(0.5, 2, (2, heads_kv)), jnp.float32)
        for name in ("query", "key", "value")
    }
    found = ULYSSES(meshes.mesh(context=devices), layout="contiguous", **descales)(*arrays)
    wanted = jax_fa4.flash_attention(*arrays, return_lse=True, **descales)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), atol=1e-2)


def test_refusals():
    x = inputs.make(CASE, jnp.float32)
    attend = functools.partial(jax_fa4.ulysses_attention, axis_name="context")
    with pytest.raises(ValueError, match=r"axis_name='context' .* inside jax.shard_map"):
        attend(*x[:3])
    case = dataclasses.replace(CASE, query_length=24, key_length=24)
    with pytest.raises(NotImplementedError, match=r"8 heads, .* over 3 .* ring_attention"):
        check(case, meshes.mesh(context=3), layout="contiguous")
    with pytest.raises(ValueError, match=r"learnable_sink has shape \(3,\), expected \(4,\)"):
        check(
            CASE,
            meshes.mesh(context=2, model=2),
            spec=PartitionSpec(None, "context", "model"),
            layout="contiguous",
            learnable_sink=jnp.zeros(6),
        )
