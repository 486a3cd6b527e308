"""Visibility that is known at run time only: segments, packed documents, lengths.

Row i of queries attends key j iff `first[i] <= j <= last[i]` and `query_ids[i] == key_ids[j]`.
Bounds contain everything that hides a key by its position: band, lengths, documents; a call that
has them applies no band. They are arrays, so one compiled program serves all lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jax_fa4.ops.band import UNBOUNDED, Band, Window

_SPAN = 64  # of ordered numbers that are compared at once


class Documents(NamedTuple):
    """Where each document of a packed array begins (N + 1; the last is the end), and its length."""

    starts: jax.Array
    lengths: jax.Array


class KeyBounds(NamedTuple):
    """Keys that each row attends, int32: `first` and `last` (inclusive; none where last < first).

    All of first .. last where the ids, any integers, are equal. Rows are (B, Sq), keys (B, Sk).
    """

    first: jax.Array
    last: jax.Array
    query_ids: jax.Array
    key_ids: jax.Array

    @classmethod
    def make(
        cls,
        band: Band,
        shape: tuple[int, int, int],
        *,
        lengths: tuple[jax.Array, jax.Array] | None = None,
        segments: tuple[jax.Array, jax.Array] | None = None,
        moves: bool = False,
    ) -> KeyBounds:
        """Bounds of a call of (B, Sq, Sk): its band, and (query, key) lengths and segment ids.

        `moves`: the band is aligned at the last query and key, which lengths move.
        """
        batch, query_length, key_length = shape
        shift: jax.Array | int = 0
        if lengths is not None:
            lengths = (
                jnp.clip(lengths[0], 0, query_length).astype(jnp.int32),
                jnp.clip(lengths[1], 0, key_length).astype(jnp.int32),
            )
            if moves:
                shift = (lengths[1] - lengths[0] - (key_length - query_length))[:, None]
        bounds = cls.of_band(band, batch, query_length, key_length, shift)
        if lengths is not None:
            bounds = bounds.within_lengths(*lengths)
        return bounds if segments is None else bounds.within_segments(*segments)

    @classmethod
    def of_band(
        cls, band: Band, batch: int, query_length: int, key_length: int, shift: jax.Array | int = 0
    ) -> KeyBounds:
        """The bounds of a band, its diagonals moved right by `shift`, a number or (B, 1)."""
        rows = jnp.arange(query_length, dtype=jnp.int32)[None]
        first = rows + _moved(band.lower, shift)
        last = rows + _moved(band.upper, shift)
        first, last = jnp.maximum(first, 0), jnp.minimum(last, key_length - 1)
        first, last = (jnp.broadcast_to(x, (batch, query_length)) for x in (first, last))
        return cls(first, last, jnp.zeros_like(first), jnp.zeros((batch, key_length), jnp.int32))

    @classmethod
    def of_documents(
        cls,
        queries: Documents,
        keys: Documents,
        sizes: tuple[int, int],
        *,
        causal: bool,
        window: Window,
    ) -> KeyBounds:
        """Bounds of documents packed into one batch element of `sizes` queries and keys.

        A document's queries see its own keys; causal masks and windows are aligned at the last of
        both ("bottom_right").
        """
        rows = jnp.arange(sizes[0], dtype=jnp.int32)
        # The last that begins at or before the row: no row belongs to an empty one in between.
        own = _count_below(queries.starts[None], rows[None], or_equal=True)[0] - 1
        is_any = (own >= 0) & (own < queries.lengths.shape[0])
        own = jnp.clip(own, 0, queries.lengths.shape[0] - 1)
        row, begin = rows - queries.starts[own], keys.starts[own]
        length, key_length = queries.lengths[own], keys.lengths[own]
        row_at_key = row + key_length - length
        left, right = window
        right = 0 if causal else right
        first, last = jnp.zeros_like(row), key_length - 1
        if left is not None:
            first = jnp.maximum(first, row_at_key - min(left, UNBOUNDED))
        if right is not None:
            last = jnp.minimum(last, row_at_key + min(right, UNBOUNDED - 1))
        last = jnp.where(is_any & (row < length), begin + last, -1)
        nothing = jnp.zeros((1, sizes[1]), jnp.int32)
        return cls((begin + first)[None], last[None], jnp.zeros_like(rows)[None], nothing)

    def within_lengths(self, query_lengths: jax.Array, key_lengths: jax.Array) -> KeyBounds:
        """Only rows below the first, and keys below the second, (B,) each, attend and are seen."""
        rows = jnp.arange(self.first.shape[1], dtype=jnp.int32)[None]
        last = jnp.minimum(self.last, key_lengths[:, None] - 1)
        return self._replace(last=jnp.where(rows < query_lengths[:, None], last, -1))

    def within_segments(self, query_ids: jax.Array, key_ids: jax.Array) -> KeyBounds:
        """Only keys of the row's own segment are seen: (B, Sq) and (B, Sk), any int32.

        `first` and `last` shrink to the segment's own, so that whole blocks can be skipped.
        """
        first, last = _reach(query_ids, key_ids)
        return KeyBounds(
            jnp.maximum(self.first, first), jnp.minimum(self.last, last), query_ids, key_ids
        )

    def sees(self) -> jax.Array:
        """All of it as a boolean matrix (B, Sq, Sk): for the definition and for tests."""
        keys = jnp.arange(self.key_ids.shape[1], dtype=jnp.int32)[None, None]
        inside = (self.first[..., None] <= keys) & (keys <= self.last[..., None])
        return inside & (self.query_ids[..., None] == self.key_ids[:, None])


def _moved(bound: int, shift: jax.Array | int) -> jax.Array | int:
    """A side of the band, moved unless it is open; both are within 2^30, and so is the sum."""
    return bound if abs(bound) >= UNBOUNDED else jnp.clip(bound + shift, -UNBOUNDED, UNBOUNDED)


def _count_below(ordered: jax.Array, numbers: jax.Array, *, or_equal: bool) -> jax.Array:
    """How many of each row of `ordered`, ascending, are below (or equal to) each of `numbers`.

    By the first of each _SPAN of them, and then by all of one: on a GPU each step of a binary
    search is a launch of its own, or more.
    """
    is_below = jnp.less_equal if or_equal else jnp.less
    batch, length = ordered.shape
    padded = jnp.pad(ordered, ((0, 0), (0, -length % _SPAN)), mode="edge")
    spans = padded.reshape(batch, -(-length // _SPAN), _SPAN)
    begun = jnp.sum(is_below(spans[:, None, :, 0], numbers[..., None]), axis=2, dtype=jnp.int32)
    span = jnp.maximum(begun - 1, 0)
    own = jnp.take_along_axis(spans, span[..., None], axis=1)
    within = jnp.sum(is_below(own, numbers[..., None]), axis=2, dtype=jnp.int32)
    return jnp.minimum(span * _SPAN + within, length)


def _reach(query_ids: jax.Array, key_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and last key with each row's id, (B, Sq); -1 as last where no key has it."""
    length = key_ids.shape[1]
    if length == 0:
        return jnp.zeros_like(query_ids), jnp.full_like(query_ids, -1)
    # Sorted by id, in order of position within one: O(S log S), and exact for ids in any order.
    order = jnp.argsort(key_ids, axis=1, stable=True).astype(jnp.int32)
    ordered = jnp.take_along_axis(key_ids, order, axis=1)
    begin, end = (_count_below(ordered, query_ids, or_equal=x) for x in (False, True))
    first = jnp.take_along_axis(order, jnp.minimum(begin, length - 1), axis=1)
    last = jnp.take_along_axis(order, jnp.maximum(end - 1, 0), axis=1)
    return first, jnp.where(begin < end, last, -1)
