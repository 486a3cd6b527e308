"""What bounded kernels read of a call's `KeyBounds`: the bounds, and summaries by which they skip.

A group is 64 rows of queries, or 64 keys; kernels' tiles are whole groups.

    query_groups (B, ceil(Sq / 64), 4): of a group's rows that attend any key, the least first and
        the greatest last; then the greatest first and the least last, where every row of the group
        attends all keys between its own first and last, else 2^30 and -1.
        A tile visits the keys between the first two, and needs no mask for blocks within the rest.
    key_groups (B, ceil(Sk / 64), 2): first and last row that may attend a key of the group, 2^30
        and -1 if none does. They are a hull, from the groups of queries that reach it.

Cost: O(B (Sq + Sk)) integers read and written, and B (Sq / 64) (Sk / 64) comparisons, which XLA
fuses into their reduction: at 32768 queries and keys 2^18, beside 2^30 scores a head.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

GROUP = 64
NOWHERE = 2**30  # first key, or row, of those who see none; the last is -1


class BoundTables(NamedTuple):
    """int32 arrays in the order of the kernels' arguments; row_bounds is (B, Sq, 2)."""

    row_bounds: jax.Array
    query_ids: jax.Array
    key_ids: jax.Array
    query_groups: jax.Array
    key_groups: jax.Array

    def of_forward(self) -> tuple[jax.Array, ...]:
        """Those that the forward takes: it goes by tiles of queries alone."""
        return self[:4]


def bound_tables(
    first: jax.Array, last: jax.Array, query_ids: jax.Array, key_ids: jax.Array
) -> BoundTables:
    """The tables of a `KeyBounds`, which has the same fields."""
    length_q, length_k = first.shape[1], key_ids.shape[1]
    first, last = jnp.maximum(first, 0), jnp.minimum(last, length_k - 1)
    query_groups = _query_groups(first, last, query_ids, key_ids)
    return BoundTables(
        jnp.stack([first, last], axis=-1),
        query_ids,
        key_ids,
        query_groups,
        _key_groups(query_groups, length_q, length_k),
    )


def _query_groups(
    first: jax.Array, last: jax.Array, query_ids: jax.Array, key_ids: jax.Array
) -> jax.Array:
    sees = first <= last
    whole = sees & _in_one_run(first, last, query_ids, key_ids)
    columns = (
        (jnp.where(sees, first, NOWHERE), jnp.min, NOWHERE),
        (jnp.where(sees, last, -1), jnp.max, -1),
        (jnp.where(whole, first, NOWHERE), jnp.max, -1),
        (jnp.where(whole, last, -1), jnp.min, NOWHERE),
    )
    padding = ((0, 0), (0, -first.shape[1] % GROUP))
    padded = (jnp.pad(x, padding, constant_values=neutral) for x, _, neutral in columns)
    grouped = [x.reshape(x.shape[0], -1, GROUP) for x in padded]
    return jnp.stack([of(x, axis=2) for x, (_, of, _) in zip(grouped, columns, strict=True)], -1)


def _in_one_run(
    first: jax.Array, last: jax.Array, query_ids: jax.Array, key_ids: jax.Array
) -> jax.Array:
    """Whether all keys of first .. last have the row's id: they are one run of equal ids."""
    changes = (key_ids[:, 1:] != key_ids[:, :-1]).astype(jnp.int32)
    run = jnp.pad(jnp.cumsum(changes, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))

    def at(x: jax.Array, position: jax.Array) -> jax.Array:
        # Rows that see nothing may have bounds outside, where any key does.
        return jnp.take_along_axis(x, position, axis=1, mode="clip")

    return (at(run, first) == at(run, last)) & (at(key_ids, first) == query_ids)


def _key_groups(query_groups: jax.Array, length_q: int, length_k: int) -> jax.Array:
    least, greatest = query_groups[..., None, 0], query_groups[..., None, 1]
    start = jnp.arange(0, length_k, GROUP, dtype=jnp.int32)[None, None]
    reaches = (least <= start + GROUP - 1) & (start <= greatest)  # (B, query groups, key groups)
    row = jnp.arange(0, length_q, GROUP, dtype=jnp.int32)[None, :, None]
    end = jnp.minimum(row + GROUP, length_q) - 1
    first = jnp.where(reaches, row, NOWHERE).min(axis=1)
    return jnp.stack([first, jnp.where(reaches, end, -1).max(axis=1)], axis=-1)
