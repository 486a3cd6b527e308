"""Gradients by the Blackwell backward's PTX: the same bits under every order of events."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, SCHEDULES, gradients_under

import jax_fa4
from jax_fa4.ops import reference
from jax_fa4.testing import expected, inputs, tolerances

# On the kernels of head dims (192, 128) and 256, which make dQ without additions to memory.
WIDE = {
    case.name: case
    for case in (
        CASES["head-dim-256"],
        CASES["values-192-128"],
        CASES["values-8-256"],
        inputs.Case(name="dims-192", query_length=65, key_length=129, head_dim=192),
        inputs.Case(
            name="dims-136-40", query_length=129, key_length=257, head_dim=136, head_dim_v=40
        ),
        inputs.Case(
            name="groups-of-3",
            query_length=130,
            key_length=63,
            heads=6,
            heads_kv=2,
            head_dim=256,
            window=(40, 10),
        ),
        inputs.Case(
            name="keys-unseen",
            query_length=70,
            key_length=300,
            head_dim=192,
            head_dim_v=128,
            window=(50, 20),
        ),
        inputs.Case(
            name="queries-without-keys",
            query_length=260,
            key_length=100,
            heads=2,
            heads_kv=1,
            head_dim=256,
            causal=True,
        ),
        inputs.Case(
            name="one-query", query_length=1, key_length=200, heads=4, heads_kv=2, head_dim=200
        ),
        inputs.Case(name="one-key", query_length=200, key_length=1, head_dim=160, head_dim_v=96),
    )
}


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


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_wide_gradients_have_the_same_bits_in_every_run(name, precision):
    """Whether or not that was asked for: the kernel is the same."""
    case = replace(WIDE[name], batch=1)
    x = inputs.make(case, precision)
    kernel = f"d{256 if max(case.head_dim - 64, case.head_dim_v) > 128 else '192_v128'}"
    with jax_fa4.emulator.options(arch="sm100"):
        for deterministic in (False, True):
            words = jax_fa4.explain(*x[:3], deterministic=deterministic, implementation="emulator")
            assert words.rstrip().endswith(kernel), words
    first = gradients_under(case, x, SCHEDULES[0])
    bounds = expected.both(x, case, gradients=True)
    for schedule in SCHEDULES:
        found = gradients_under(case, x, schedule, deterministic=schedule is SCHEDULES[-1])
        tolerances.check(found, *bounds)
        for key, value in found.items():
            np.testing.assert_array_equal(value, first[key], err_msg=f"{key}, {schedule}")


@pytest.mark.parametrize("name", ["ragged", "head-dim-256", "values-192-128"])
def test_no_member_of_a_batch_shows_in_another(name):
    """Beside a member of the batch that is NaN, and ragged, so that tiles reach into it."""
    case = replace(CASES[name], batch=1)
    x = inputs.make(case, jnp.bfloat16)
    alone = gradients_under(case, x, SCHEDULES[0])
    doubled = jax.tree.map(lambda a: jnp.concatenate([a, jnp.full_like(a, jnp.nan)]), x)
    both = gradients_under(replace(case, batch=2), doubled, SCHEDULES[0])
    for key in ("dq", "dk", "dv"):
        np.testing.assert_array_equal(both[key][:1], alone[key])


@pytest.mark.parametrize("name", ["ragged", "head-dim-128", "head-dim-256", "values-192-128"])
def test_keys_past_the_end_have_no_part_where_all_scores_are_low(name):
    """Their scores are 0, and 2^-lse is infinite: only a mask keeps that from their zeros."""
    case = replace(CASES[name], batch=1, causal=False, window=(None, None), softmax_scale=0.5)
    x = inputs.make(case, jnp.bfloat16)
    x = x._replace(q=-16 * jnp.abs(x.q), k=jnp.abs(x.k))
    assert case.key_length % 64
    _, lse = reference.attention(*x[:3], softmax_scale=case.scale, band=case.band)
    assert (lse < -128).all()
    found = gradients_under(case, x, SCHEDULES[0])
    assert all(np.isfinite(np.asarray(value, np.float32)).all() for value in found.values())
    tolerances.check(found, *expected.both(x, case, gradients=True))
