"""How the portable path cuts the scores into blocks, and the walk over those it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_fa4.ops.band import Band

State = TypeVar("State")
# Of a block row or column: a number, or a loop's counter.
Index = int | jax.Array

# Rows and columns of a block: wide enough to keep matrix units busy, and so that a
# sequence of a small model is one dense block.
_WIDEST = 512
_NARROWEST = 128
# Scores held at once, over batch and heads; narrower blocks are taken above it.
_MOST_SCORES = 2**25
# Several blocks on a side are multiples of this, which bounds the padding of the tail.
_GRAIN = 64


@dataclass(frozen=True)
class Blocks:
    """The scores of one head as a grid of `rows x columns` blocks, the tails padded."""

    query_length: int
    key_length: int
    rows: int
    columns: int

    @classmethod
    def choose(cls, query_length: int, key_length: int, heads: int) -> Blocks:
        """Blocks for `heads` score matrices (batch x query heads) of these lengths."""
        side = _WIDEST
        while side > _NARROWEST and heads * side * side > _MOST_SCORES:
            side //= 2
        rows = _even(query_length, side)
        # Few rows (decoding) leave room for longer columns in the same memory.
        return cls(query_length, key_length, rows, _even(key_length, side * side // rows))

    @property
    def grid(self) -> tuple[int, int]:
        return -(-self.query_length // self.rows), -(-self.key_length // self.columns)

    @property
    def padded(self) -> tuple[int, int]:
        """Lengths rounded up to whole blocks."""
        return self.grid[0] * self.rows, self.grid[1] * self.columns

    def spans(self, band: Band) -> list[tuple[int, int, int]]:
        """(block row, first, end): the block columns that the band reaches, empty rows left out."""
        spans = []
        for row in range(self.grid[0]):
            first = max(0, row * self.rows + band.lower)
            last_row = min((row + 1) * self.rows, self.query_length) - 1
            last = min(self.key_length - 1, last_row + band.upper)
            if first <= last:
                spans.append((row, first // self.columns, last // self.columns + 1))
        return spans


def walk(
    spans: list[tuple[int, int, int]],
    step: Callable[[jax.Array, jax.Array, State], State],
    state: State,
) -> State:
    """`state` after `step(row, column, state)` for every block of the spans, in order.

    One loop with a trip count known at compile time: the next block follows from two
    counters and three tables of one entry a row, so that skipped blocks cost nothing.
    """
    trips = sum(end - first for _, first, end in spans)
    if trips == 0:
        return state
    rows, firsts, ends = (jnp.asarray(x) for x in np.array(spans, np.int32).T)

    def body(
        carry: tuple[jax.Array, jax.Array, State], _: None
    ) -> tuple[tuple[jax.Array, jax.Array, State], None]:
        index, column, inner = carry
        inner = step(rows[index], column, inner)
        following = column + 1
        done = following >= ends[index]
        index = jnp.where(done, jnp.minimum(index + 1, len(spans) - 1), index)
        column = jnp.where(done, firsts[index], following)
        return (index, column, inner), None

    start = (jnp.int32(0), jnp.int32(spans[0][1]), state)
    return lax.scan(body, start, None, length=trips)[0][2]


def walk_needed(
    needed: jax.Array, step: Callable[[jax.Array, jax.Array, State], State], state: State
) -> State:
    """`state` after `step(row, column, state)` for the blocks where `needed` (rows, columns).

    Which they are is known at run time only, and so is the number of trips: blocks that are not
    needed cost nothing. Such a loop has forward derivatives, and none in reverse.
    """
    columns = needed.shape[1]
    order = jnp.argsort(~needed.ravel(), stable=True).astype(jnp.int32)

    def body(trip: jax.Array, inner: State) -> State:
        return step(order[trip] // columns, order[trip] % columns, inner)

    found: State = lax.fori_loop(jnp.int32(0), needed.sum(dtype=jnp.int32), body, state)
    return found


def _even(length: int, most: int) -> int:
    """Block length: all of it if at most `most`, else even parts in whole grains."""
    if length <= most:
        return length
    parts = -(-length // most)
    part = -(-length // parts)
    return min(most, -(-part // _GRAIN) * _GRAIN)
