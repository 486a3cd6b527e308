"""New tokens into a cache of keys and values, in place where the caller donates it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jax_fa4.ops.decode import checks


def append_to_cache(
    k_cache: ArrayLike,
    v_cache: ArrayLike,
    k: ArrayLike,
    v: ArrayLike,
    *,
    key_value_seq_lengths: ArrayLike,
    page_table: ArrayLike | None = None,
    query_seq_lengths: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The caches with token i of sequence b at position key_value_seq_lengths[b] + i.

        step = jax.jit(..., donate_argnames=("k_cache", "v_cache"))

    makes it a write of the new rows alone; without donation XLA copies both caches first.

    Args:
      k_cache, v_cache: (B, S, Hkv, D) and (B, S, Hkv, Dv); with page_table pages
        (P, page_size, Hkv, ...) of all sequences.
      k, v: (B, Sq, Hkv, D) and (B, Sq, Hkv, Dv), the new tokens, in the caches' dtype.
      key_value_seq_lengths: (B,) int32, tokens that each sequence has BEFORE; may be traced. Pass
        key_value_seq_lengths + Sq to `decode_attention` afterwards.
      page_table: (B, n) int32, as in `decode_attention`. No two sequences may write to one row.
      query_seq_lengths: (B,) int32, how many of the Sq new tokens each sequence has; all by
        default. Later ones are not written.

    Returns:
      (k_cache, v_cache). What has no place (a position past the capacity or below 0, a page id
      out of range) is not written, and nothing else is overwritten in its place.

    Raises:
      ValueError, NotImplementedError: at trace time, as in `decode_attention`.
    """
    caches = jnp.asarray(k_cache), jnp.asarray(v_cache)
    new = jnp.asarray(k), jnp.asarray(v)
    lengths = jnp.asarray(key_value_seq_lengths)
    table = None if page_table is None else jnp.asarray(page_table)
    counts = None if query_seq_lengths is None else jnp.asarray(query_seq_lengths)
    checks.append(caches, new, lengths, counts, table)
    if 0 in new[0].shape:
        return caches
    steps = jnp.arange(new[0].shape[1], dtype=jnp.int32)[None]
    positions = lengths[:, None] + steps
    if counts is not None:
        positions = jnp.where(steps < counts[:, None], positions, -1)
    rows = _rows(caches[0].shape, positions, table)
    return _write(caches[0], new[0], rows), _write(caches[1], new[1], rows)


def _rows(
    cache: tuple[int, ...], positions: jax.Array, table: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """(first axis, second axis) of the cache for each new token; the first is -1 for nowhere."""
    if table is None:
        owner = jnp.arange(cache[0], dtype=jnp.int32)[:, None]
        inside = (positions >= 0) & (positions < cache[1])
        return jnp.where(inside, owner, -1), positions
    page_size, pages = cache[1], table.shape[1]
    inside = (positions >= 0) & (positions < page_size * pages)
    place = jnp.where(inside, positions, 0)
    page = jnp.take_along_axis(table, place // page_size, axis=1, mode="clip")
    inside &= (page >= 0) & (page < cache[0])
    return jnp.where(inside, page, -1), place % page_size


def _write(cache: jax.Array, new: jax.Array, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
    # A scatter whose windows are whole rows of heads; XLA drops what lies outside. Counting from
    # the end, as Python's negative indices do, is not wanted here.
    first = jnp.where(rows[0] < 0, cache.shape[0], rows[0])
    return cache.at[first, rows[1]].set(new, mode="drop")
