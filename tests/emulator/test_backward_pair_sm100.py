"""Gradients by the Blackwell backward in pairs of CTAs: right, and of the same bits in every run.

Calls this small may take the usual form; here they take the pair.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from calls import CASES, SCHEDULES, forced, gradients_under

from jax_fa4.testing import expected, inputs, tolerances
from jax_fa4.variants import Form

# Of tiles of 128: an odd number of blocks of keys, keys of the pair's first CTA alone, band ends
# within a pair, queries that see nothing, and heads that share keys.
MADE = (
    inputs.Case(name="five-blocks", query_length=300, key_length=600, heads=2, heads_kv=1),
    inputs.Case(name="half-a-pair", query_length=200, key_length=120, causal=True),
    inputs.Case(name="one-by-one-wide", query_length=1, key_length=1),
    inputs.Case(name="band", query_length=400, key_length=513, window=(150, 70), heads_kv=1),
    inputs.Case(name="unseen", query_length=500, key_length=260, causal=True),
)
PROBLEMS = {
    case.name: replace(case, head_dim=128, head_dim_v=128, batch=1)
    for case in (*MADE, CASES["head-dim-128"], CASES["rows-without-keys"])
}
PROBLEMS["narrow"] = replace(PROBLEMS["five-blocks"], name="narrow", head_dim=104, head_dim_v=72)


@pytest.fixture(autouse=True)
def pairs():
    """Calls take the pair where there is one; what ran is listed."""
    jax.clear_caches()  # of calls that other tests traced, with their choice
    with forced(Form.PAIR) as taken:
        yield taken
    jax.clear_caches()


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_gradients(name, deterministic, pairs):
    case = PROBLEMS[name]
    precision = "float16" if len(name) % 2 else "bfloat16"
    x = inputs.make(case, precision)
    wanted = expected.both(x, case, gradients=True)
    same = ("dq", "dk", "dv") if deterministic else ("dk", "dv")
    first = None
    for schedule in SCHEDULES:
        found = gradients_under(case, x, schedule, deterministic=deterministic)
        tolerances.check(found, *wanted)
        first = first or found
        for key in same:
            np.testing.assert_array_equal(found[key], first[key], err_msg=f"{key}, {schedule}")
    suffix = "_deterministic" * deterministic
    gradients = {name for name in pairs if name.startswith("bwd_")}
    assert {n.split("_", 3)[3] for n in gradients} == {f"d128_pair{suffix}"}


def test_no_member_of_a_batch_shows_in_another():
    """Beside a member of the batch that is NaN, and ragged, so that tiles reach into it."""
    case = PROBLEMS["five-blocks"]
    x = inputs.make(case, jnp.bfloat16)
    alone = gradients_under(case, x, SCHEDULES[0], deterministic=True)
    doubled = jax.tree.map(lambda a: jnp.concatenate([a, jnp.full_like(a, jnp.nan)]), x)
    both = gradients_under(replace(case, batch=2), doubled, SCHEDULES[0], deterministic=True)
    for key in ("dq", "dk", "dv"):
        np.testing.assert_array_equal(both[key][:1], alone[key])
