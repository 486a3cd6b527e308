"""The shipped kernels for e4m3, emulated, against the definition in float64."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, emulated_fp8
from jax.sharding import AxisType, PartitionSpec

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances

FP8 = jnp.float8_e4m3fn
NAMES = [
    *("one-by-one", "ragged", "ragged-causal", "rows-without-keys", "decode", "one-key", "window"),
    *("window-left", "grouped", "multi-query", "head-dim-8", "head-dim-40", "head-dim-63"),
    *("head-dim-80", "head-dim-96", "head-dim-128", "values-128-64", "values-64-128"),
    *("values-96-40", "values-21-3", "scale", "growing", "growing-128", "packed-129-of-4"),
]


@pytest.fixture(autouse=True)
def blackwell():
    with jax_fa4.emulator.options(arch="sm100"):
        yield


def make(case, seed=0):
    x = inputs.make(case, FP8, seed)
    return x, inputs.make_descales(case, seed)


def run(case, x, descales):
    out, lse = jax.jit(lambda *a: emulated_fp8(case)(*a))(*x[:3], *descales)
    assert (out.dtype, lse.dtype) == (jnp.bfloat16, jnp.float32)
    return {"out": np.asarray(out), "lse": np.asarray(lse)}


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_definition(name):
    case = CASES[name]
    x, descales = make(case)
    exact, plain = expected.both(x, case, descales=descales)
    tolerances.check(run(case, x, descales), exact, plain)


@pytest.mark.parametrize("which", range(3))
def test_every_head_has_its_own_descale(which):
    """The tolerance is narrow enough to tell them apart."""
    case = CASES["grouped"]
    x, descales = make(case)
    wrong = [jnp.roll(d, 1, axis=1) if i == which else d for i, d in enumerate(descales)]
    both = expected.both(x, case, descales=descales)
    with pytest.raises(AssertionError, match="error"):
        tolerances.check(run(case, x, wrong), *both)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_row_of_one_key_is_that_key(head_dim):
    """The largest P of a row is a power of two, so that nothing of it is rounded away."""
    case = replace(CASES["window-diagonal"], head_dim=head_dim, head_dim_v=head_dim, batch=1)
    x, descales = make(case)
    out = run(case, x, descales)["out"]
    wanted = x.v.astype(jnp.float32) * descales[2][:, None, :, None]
    np.testing.assert_allclose(out.astype(np.float32), wanted, rtol=2**-8)


@pytest.mark.parametrize("name", ["ragged-causal", "grouped", "head-dim-96"])
@pytest.mark.parametrize("level", ["ptx", "hardware"])
def test_no_order_of_events_changes_a_bit(name, level):
    case = replace(CASES[name], batch=1)
    x, descales = make(case)
    results = []
    for completion in ("earliest", "latest", "random"):
        for seed in (0, 1):
            with jax_fa4.emulator.options(completion=completion, seed=seed, level=level):
                found = run(case, x, descales)
            results.append(b"".join(value.tobytes() for value in found.values()))
    assert len(set(results)) == 1


@pytest.mark.parametrize("sm_count", [1, 3])
def test_few_sms_share_the_same_work(sm_count):
    """A CTA that goes from head to head takes each head's descales."""
    case = replace(CASES["grouped"], causal=False, batch=5)
    x, descales = make(case)
    many = run(case, x, descales)
    with jax_fa4.emulator.options(sm_count=sm_count):
        few = run(case, x, descales)
    for name, found in few.items():
        np.testing.assert_array_equal(found, many[name])


def test_vmap():
    case = CASES["grouped"]
    x, descales = make(case)
    arguments = (*x[:3], *descales)
    wanted = run(case, x, descales)
    found = jax.jit(jax.vmap(emulated_fp8(case)))(*(a[:, None] for a in arguments))
    for result, whole in zip(found, wanted.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(result[:, 0]), whole)


def test_shard_map():
    case = replace(CASES["grouped"], batch=4)
    x, descales = make(case)
    mesh = jax.make_mesh((4,), ("x",), axis_types=(AxisType.Auto,), devices=jax.devices("cpu")[:4])
    spec = PartitionSpec("x")
    mapped = jax.shard_map(emulated_fp8(case), mesh=mesh, in_specs=spec, out_specs=spec)
    wanted = run(case, x, descales)
    for found, whole in zip(jax.jit(mapped)(*x[:3], *descales), wanted.values(), strict=True):
        np.testing.assert_array_equal(np.asarray(found), whole)


def test_explain_names_the_kernel():
    q = jax.ShapeDtypeStruct((1, 8, 2, 80), FP8)
    explain = functools.partial(jax_fa4.explain, q, q, q, implementation="emulator")
    assert "kernel fwd_sm100_e4m3_d128 on the emulator" in explain()
    with jax_fa4.emulator.options(arch="sm90"):
        assert "no kernel for sm90 takes float8_e4m3fn" in explain()


def test_wider_heads_have_no_kernel():
    q = jnp.ones((1, 8, 2, 192), FP8)
    with pytest.raises(NotImplementedError, match=r"head dim 192 is above 128.*8 bits"):
        jax_fa4.flash_attention(q, q, q, implementation="emulator")
    assert jax_fa4.flash_attention(q, q, q).dtype == jnp.bfloat16
