"""Gradients by the Blackwell backward's PTX: the same bits under every order of events."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, emulated

import jax_fa4
from jax_fa4.testing import expected, inputs, tolerances

SCHEDULES = (
    ("ptx", "earliest", 0),
    ("hardware", "latest", 1),
    ("ptx", "random", 2),
    ("hardware", "random", 3),
)


def gradients_under(case, x, schedule, **options):
    level, completion, seed = schedule
    call = functools.partial(emulated(case), **options)
    with jax_fa4.emulator.options(arch="sm100", level=level, completion=completion, seed=seed):
        return expected.results(call, x, gradients=True)


@pytest.mark.parametrize("name", ["ragged-causal", "grouped", "head-dim-96", "head-dim-128"])
def test_deterministic_gradients_have_the_same_bits_in_every_run(name):
    case = replace(CASES[name], batch=1)
    x = inputs.make(case, jnp.bfloat16)
    first = gradients_under(case, x, SCHEDULES[0], deterministic=True)
    tolerances.check(first, *expected.both(x, case, gradients=True))
    for schedule in SCHEDULES[1:]:
        found = gradients_under(case, x, schedule, deterministic=True)
        for key, value in found.items():
            np.testing.assert_array_equal(value, first[key], err_msg=f"{key}, {schedule}")


@pytest.mark.parametrize("name", ["window", "rows-without-keys", "multi-query", "head-dim-128"])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_gradients_of_keys_have_the_same_bits_in_every_run(name, precision):
    case = replace(CASES[name], batch=1)
    x = inputs.make(case, precision)
    first = gradients_under(case, x, SCHEDULES[0])
    for schedule in SCHEDULES[1:]:
        found = gradients_under(case, x, schedule)
        tolerances.check(found, *expected.both(x, case, gradients=True))
        for key in ("dk", "dv"):
            np.testing.assert_array_equal(found[key], first[key], err_msg=f"{key}, {schedule}")


def test_no_member_of_a_batch_shows_in_another():
    """Beside a member of the batch that is NaN, and ragged, so that tiles reach into it."""
    case = replace(CASES["ragged"], batch=1)
    x = inputs.make(case, jnp.bfloat16)
    alone = gradients_under(case, x, SCHEDULES[0])
    doubled = jax.tree.map(lambda a: jnp.concatenate([a, jnp.full_like(a, jnp.nan)]), x)
    both = gradients_under(replace(case, batch=2), doubled, SCHEDULES[0])
    for key in ("dq", "dk", "dv"):
        np.testing.assert_array_equal(both[key][:1], alone[key])
