"""Do two loss curves agree? Measured against what the order of additions alone does.

Two programs that compute the same attention in the same precision round differently, and
training amplifies each difference. How far apart that drives two curves is not a matter of
taste: train Flax's own attention with its sums taken in another order, and see. Hence the
two rules, on mean |difference| of the curves:

* over the first steps, before training amplifies anything: at most twice the largest
  difference that a reordering makes, plus one unit in the last place of the loss;
* over the whole run: at most twice the difference that the reordering makes, or at most
  what the curve itself moves from one batch to the next, whichever is more. (Where
  training is chaotic, one reordering may be several times further away than another.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jax_fa4.demo.model import AttentionFn

FIRST_STEPS = 20

Order = npt.NDArray[np.intp]


def reversed_order(length: int) -> Order:
    """The last key first."""
    return np.arange(length)[::-1].copy()


def rotated_order(length: int) -> Order:
    """The second half of the keys first."""
    return np.roll(np.arange(length), length // 2)


def shuffled_order(length: int) -> Order:
    """The keys in a fixed random order."""
    return np.random.default_rng(0).permutation(length)


# The first of them trains to the end.
ORDERS: tuple[Callable[[int], Order], ...] = (reversed_order, rotated_order, shuffled_order)


def reordered_attention(order: Order) -> AttentionFn:
    """Plain causal attention that takes its keys in `order` and divides after the product.

    Mathematically Flax's default attention, in the same precision: products accumulate in
    float32, and probabilities round to the dtype of the values.
    """

    def attend(
        query: jax.Array, key: jax.Array, value: jax.Array, *, is_causal: bool, **_: object
    ) -> jax.Array:
        if not is_causal:
            raise ValueError("reordered_attention is causal only; pass is_causal=True")
        own = order[order < key.shape[-3]]
        key, value = key[:, own], value[:, own]
        keep = (own[None, :] <= np.arange(query.shape[-3])[:, None])[None, None]
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=jnp.float32)
        scores = jnp.where(keep, scores * query.shape[-1] ** -0.5, -jnp.inf)
        weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
        out = jnp.einsum(
            "bhqk,bkhd->bqhd",
            weights.astype(value.dtype),
            value,
            preferred_element_type=jnp.float32,
        )
        return (out / jnp.swapaxes(weights.sum(axis=-1), 1, 2)[..., None]).astype(value.dtype)

    return attend


@dataclass(frozen=True)
class Comparison:
    """One rule applied: a difference, the difference of the reorderings, the bound."""

    over: str
    difference: float
    reordered: float
    bound: float

    @property
    def agrees(self) -> bool:
        """False for NaN, too."""
        return self.difference <= self.bound


def compare(
    curve: Sequence[float], base: Sequence[float], reordered: Sequence[Sequence[float]]
) -> list[Comparison]:
    """Both rules of this module for a curve against `base`.

    The first of `reordered` must be as long as `base`; the others serve the first rule and
    need FIRST_STEPS steps only.
    """
    first = min(FIRST_STEPS, len(base))
    yardstick = max(_distance(other, base, first) for other in reordered)
    ulp = float(np.spacing(np.float32(max(base[:first]))))
    start = Comparison(
        f"the first {first} steps", _distance(curve, base, first), yardstick, 2 * yardstick + ulp
    )
    steps = len(base)
    yardstick = _distance(reordered[0], base, steps)
    whole = Comparison(
        f"all {steps} steps",
        _distance(curve, base, steps),
        yardstick,
        max(2 * yardstick, batch_noise(base)),
    )
    return [start, whole]


def batch_noise(curve: Sequence[float]) -> float:
    """Standard deviation of a curve from one step to the next, over its second half."""
    tail = np.asarray(curve[len(curve) // 2 :])
    return float(np.std(np.diff(tail)) / np.sqrt(2))


def _distance(curve: Sequence[float], base: Sequence[float], steps: int) -> float:
    return float(np.mean(np.abs(np.subtract(curve[:steps], base[:steps]))))
