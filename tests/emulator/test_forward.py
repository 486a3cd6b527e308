"""The shipped kernels, emulated, against the definition in float64."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, emulated

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances

NAMES = (
    "one-by-one",
    "ragged",
    "ragged-top-left",
    "rows-without-keys",
    "decode",
    "one-key",
    "window",
    "window-right",
    "grouped",
    "multi-query",
    "head-dim-40",
    "head-dim-63",
    "head-dim-72",
    "head-dim-80",
    "head-dim-88",
    "head-dim-96",
    "head-dim-128",
    "head-dim-256",
    "values-192-128",
    "values-128-64",
    "values-64-128",
    "values-96-40",
    "values-8-256",
    "values-21-3",
    "scale",
    "growing",
    "growing-96",
    "growing-192-128",
    "growing-128",
    "growing-256",
)


@pytest.fixture(params=["sm90", "sm100"])
def arch(request):
    with jax_fa4.emulator.options(arch=request.param):
        yield request.param


@pytest.mark.parametrize("name", NAMES)
def test_forward_is_the_definition(name, arch):
    case = replace(CASES[name], batch=1)
    dtype = jnp.float16 if NAMES.index(name) % 3 == 1 else jnp.bfloat16
    x = inputs.make(case, dtype)
    tolerances.check(expected.results(emulated(case), x), *expected.both(x, case))


@pytest.mark.parametrize("name", ["ragged-causal", "head-dim-40", "values-96-40"])
def test_gradients_are_those_of_the_definition(name, arch):
    case = CASES[name]
    x = inputs.make(case, jnp.bfloat16)
    actual = expected.results(emulated(case), x, gradients=True)
    tolerances.check(actual, *expected.both(x, case, gradients=True))


@pytest.mark.parametrize("name", ["ragged-causal", "grouped", "head-dim-96", "values-192-128"])
def test_no_order_of_events_changes_a_bit(name, arch):
    case = replace(CASES[name], batch=1)
    q, k, v, *_ = inputs.make(case, jnp.bfloat16)
    results = []
    for completion in ("earliest", "latest", "random"):
        for seed in (0, 1):
            # A new function each time: a compiled one keeps its settings.
            with jax_fa4.emulator.options(completion=completion, seed=seed):
                results.append(jax.jit(emulated(case))(q, k, v))
    for result in results[1:]:
        for found, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(np.asarray(found), np.asarray(first))


@pytest.mark.parametrize("sm_count", [1, 3])
def test_few_sms_share_the_same_work(sm_count, arch):
    case = replace(CASES["grouped"], causal=False)  # tiles that differ are not shared out
    q, k, v, *_ = inputs.make(case, jnp.bfloat16)
    many = emulated(case)(q, k, v)
    with jax_fa4.emulator.options(sm_count=sm_count):
        few = emulated(case)(q, k, v)
    for found, wanted in zip(few, many, strict=True):
        np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))


def test_plain_sums_are_close_too(arch):
    case = CASES["ragged-causal"]
    x = inputs.make(case, jnp.bfloat16)
    with jax_fa4.emulator.options(exact=False):
        tolerances.check(expected.results(emulated(case), x), *expected.both(x, case))


def test_vmap_and_scan(arch):
    case = CASES["grouped"]
    q, k, v, *_ = inputs.make(case, jnp.bfloat16)
    wanted = emulated(case)(q, k, v)
    arguments = tuple(x[:, None] for x in (q, k, v))  # (2, 1, S, H, D)
    mapped = jax.jit(jax.vmap(emulated(case)))(*arguments)
    _, scanned = jax.jit(lambda *xs: jax.lax.scan(lambda c, x: (c, emulated(case)(*x)), 0, xs))(
        *arguments
    )
    for results in (mapped, scanned):
        for found, whole in zip(results, wanted, strict=True):
            np.testing.assert_array_equal(np.asarray(found[:, 0]), np.asarray(whole))


def test_empty_arrays_give_zeros():
    q = jnp.ones((1, 4, 2, 64), jnp.bfloat16)
    none = jnp.ones((1, 0, 2, 64), jnp.bfloat16)
    assert not jax_fa4.flash_attention(q, none, none, implementation="emulator").any()
