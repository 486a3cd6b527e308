"""Gradients by Hopper's pairs of CTAs, emulated, also where a call would take the usual form."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, emulated

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.variants import select_sm90

# Besides the shared list: an odd block of keys, which leaves a CTA without any; keys of both CTAs
# that other queries see; several pairs.
FURTHER = {
    case.name: case
    for case in (
        inputs.Case(name="one-cta", query_length=200, key_length=100, head_dim=128),
        inputs.Case(name="odd", query_length=130, key_length=300, causal=True),
        inputs.Case(name="band", query_length=500, key_length=500, window=(70, 10)),
        inputs.Case(
            name="grouped-pairs",
            query_length=70,
            key_length=513,
            head_dim=120,
            heads=6,
            heads_kv=2,
        ),
    )
}
NAMES = (
    *FURTHER,
    "one-by-one",
    "ragged",
    "ragged-causal",
    "rows-without-keys",
    "one-key",
    "window",
    "grouped",
    "multi-query",
    "head-dim-40",
    "head-dim-128",
    "head-dim-256",
    "values-128-64",
    "growing-128",
)


@pytest.fixture
def pairs(monkeypatch):
    monkeypatch.setattr(select_sm90, "pair_speed", lambda head_dim, call: 2.0)
    monkeypatch.setattr(select_sm90, "serial_speed", lambda head_dim, call: 0.0)
    jax.clear_caches()  # of calls that other tests traced, with their choice
    with jax_fa4.emulator.options(arch="sm90"):
        yield
    jax.clear_caches()


def checked(case, dtype, deterministic=False):
    x = inputs.make(case, dtype)
    words = jax_fa4.explain(*x[:3], deterministic=deterministic, implementation="emulator")
    assert "_pair" + "_deterministic" * deterministic in words, words
    call = functools.partial(emulated(case), deterministic=deterministic)
    found = expected.results(call, x, gradients=True)
    tolerances.check(found, *expected.both(x, case, gradients=True))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_definition(name, pairs):
    case = replace((CASES | FURTHER)[name], batch=1)
    checked(case, jnp.float16 if NAMES.index(name) % 3 == 1 else jnp.bfloat16)


@pytest.mark.parametrize("name", ["odd", "grouped-pairs", "head-dim-256"])
@pytest.mark.parametrize("level", ["ptx", "hardware"])
def test_any_order_of_events(name, level, pairs):
    """dk and dv keep their bits whatever the order; dq is a sum in a varying one."""
    case = replace((CASES | FURTHER)[name], batch=1)
    first = None
    for seed, completion in enumerate(("earliest", "latest", "random")):
        with jax_fa4.emulator.options(seed=seed, completion=completion, level=level):
            found = checked(case, jnp.bfloat16)
        first = first or found
        for gradient in ("dk", "dv"):
            np.testing.assert_array_equal(found[gradient], first[gradient])


@pytest.mark.parametrize("name", ["one-cta", "odd", "band", "grouped-pairs", "rows-without-keys"])
@pytest.mark.parametrize("level", ["ptx", "hardware"])
def test_pairs_take_turns(name, level, pairs):
    """None waits for a later one, in any order of events, on any number of multiprocessors.

    The emulator runs pairs one after another, so that equal bits say nothing of the order: see
    tests/kernels/test_turns_sm90.py.
    """
    case = replace((CASES | FURTHER)[name], head_dim=128, head_dim_v=128, batch=1)
    for seed, completion in enumerate(("earliest", "latest", "random", "random")):
        with jax_fa4.emulator.options(
            seed=seed, completion=completion, level=level, sm_count=(132, 3, 132, 7)[seed]
        ):
            checked(case, jnp.bfloat16, deterministic=True)
