"""Gradients by Hopper's serial form, emulated, also where a call would take another."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, emulated

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.variants import select_sm90

# Besides the shared list: queries that no key sees before, between and behind those that some do;
# several blocks of keys, walked there and back; of all heads of a group.
FURTHER = {
    case.name: case
    for case in (
        inputs.Case(name="several", query_length=200, key_length=400, head_dim=128),
        inputs.Case(name="band", query_length=500, key_length=500, window=(70, 10)),
        inputs.Case(name="unseen", query_length=700, key_length=200, window=(60, 0)),
        inputs.Case(
            name="grouped-blocks",
            query_length=140,
            key_length=300,
            head_dim=120,
            heads=6,
            heads_kv=2,
            causal=True,
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
    "values-128-64",
    "growing-128",
)


@pytest.fixture
def serial(monkeypatch):
    monkeypatch.setattr(select_sm90, "serial_speed", lambda head_dim, call: 2.0)
    jax.clear_caches()  # of calls that other tests traced, with their choice
    with jax_fa4.emulator.options(arch="sm90"):
        yield
    jax.clear_caches()


def checked(case, dtype, **options):
    x = inputs.make(case, dtype)
    words = jax_fa4.explain(*x[:3], implementation="emulator", **options)
    assert "_serial" in words, words
    found = expected.results(emulated(case), x, gradients=True)
    tolerances.check(found, *expected.both(x, case, gradients=True))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_definition(name, serial):
    case = replace((CASES | FURTHER)[name], batch=1)
    checked(case, jnp.float16 if NAMES.index(name) % 3 == 1 else jnp.bfloat16)


def test_a_deterministic_call_takes_it(serial):
    checked(replace(CASES["ragged"], batch=1), jnp.bfloat16, deterministic=True)


@pytest.mark.parametrize("name", ["several", "unseen", "grouped-blocks"])
@pytest.mark.parametrize("level", ["ptx", "hardware"])
def test_any_order_of_events(name, level, serial):
    """All gradients keep their bits."""
    case = replace((CASES | FURTHER)[name], batch=1)
    first = None
    for seed, completion in enumerate(("earliest", "latest", "random")):
        with jax_fa4.emulator.options(seed=seed, completion=completion, level=level):
            found = checked(case, jnp.bfloat16)
        first = first or found
        for gradient in ("dq", "dk", "dv"):
            np.testing.assert_array_equal(found[gradient], first[gradient])
