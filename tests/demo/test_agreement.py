"""The two rules that loss curves are compared by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_fa4.demo import agreement

STEPS = 100


@pytest.fixture
def base() -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(STEPS)
    return 5 * np.exp(-np.arange(STEPS) / 20) + 1 + 0.01 * noise


def verdicts(curve, base, *reordered) -> list[bool]:
    return [found.agrees for found in agreement.compare(curve, base, reordered)]


def test_twice_the_difference_of_a_reordering_agrees_and_more_does_not(base):
    reordered = base + 1e-4
    assert verdicts(base + 1.9e-4, base, reordered) == [True, True]
    assert verdicts(base + 2.1e-4, base, reordered) == [False, True]


def test_the_largest_reordering_counts_at_first_and_may_be_short(base):
    other = (base + 1e-3)[: agreement.FIRST_STEPS]
    assert verdicts(base + 1.9e-3, base, base + 1e-4, other) == [True, True]


def test_late_differences_may_reach_the_noise_between_batches(base):
    assert agreement.batch_noise(base) == pytest.approx(0.01, rel=0.3)
    late = np.arange(STEPS) >= agreement.FIRST_STEPS
    assert verdicts(base + 0.005 * late, base, base) == [True, True]
    assert verdicts(base + 0.05 * late, base, base) == [True, False]


def test_equal_curves_agree_and_nan_never_does(base):
    assert verdicts(base, base, base) == [True, True]
    assert verdicts(np.full(STEPS, np.nan), base, base) == [False, False]


@pytest.mark.parametrize("make_order", agreement.ORDERS)
def test_reordered_attention_is_attention(make_order):
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (2, 24, 3, 16)) for key in keys)
    attend = agreement.reordered_attention(make_order(24))
    expected = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    error = jnp.abs(attend(q, k, v, is_causal=True) - expected).max()
    assert 0 < error < 8 * jnp.finfo(jnp.float32).eps
    with pytest.raises(ValueError, match="is_causal=True"):
        attend(q, k, v, is_causal=False)
