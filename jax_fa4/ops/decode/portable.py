"""Decoding in `lax` alone: an online softmax over blocks of the cache.

It walks from the first block that any sequence sees to the last, so that time follows the
lengths and not the room that the cache has. Scores, softmax and sums are float32; probabilities
round to the cache's dtype before their product, as in `ops.portable`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops import manual_axes
from jax_fa4.ops.band import Band
from jax_fa4.ops.decode.plan import DecodePlan, Operands
from jax_fa4.ops.grid import dot

# A step of the loop costs a GPU tens of microseconds, whatever is in it, so that blocks grow where
# there would be many. But a sequence shorter than a block costs a whole one.
_BLOCK_KEYS = 256
_MOST_BLOCKS = 16

_Sums = tuple[jax.Array, jax.Array, jax.Array]


def forward(plan: DecodePlan, *operands: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, Dv) in q's dtype and lse (B, Hq, Sq) float32; see `reference.attention`."""
    x = Operands(*operands)  # type: ignore[arg-type]
    batch, count, heads, width = x.q.shape
    heads_kv = x.k.shape[2]
    query = x.q.reshape(batch, count, heads_kv, heads // heads_kv, width)
    sums = _zeros(query, x)
    if 0 not in (batch, count, x.capacity):
        lengths = jnp.clip(x.lengths, 0, x.capacity)
        blocks = _Blocks(x, lengths, plan.band)
        first, last = blocks.span()

        def step(index: jax.Array, sums: _Sums) -> _Sums:
            return _merge(sums, _block(plan, query, *blocks.fetch(index)))

        sums = lax.fori_loop(first, last, step, sums)
    product, total, peak = sums
    if x.sinks is not None:
        sink = x.sinks.astype(peak.dtype).reshape(1, heads_kv, -1, 1)
        higher = jnp.maximum(peak, sink)
        old, new = (jnp.exp(n - _finite(higher)) for n in (peak, sink))
        product, total, peak = product * old[..., None], total * old + new, higher
    seen = total > 0
    out = product / jnp.where(seen, total, 1.0)[..., None]
    lse = jnp.where(seen, jnp.log(jnp.where(seen, total, 1.0)) + _finite(peak), -jnp.inf)
    out = jnp.moveaxis(out, 3, 1).reshape(batch, count, heads, -1)
    return out.astype(x.q.dtype), lse.reshape(batch, heads, count)


class _Blocks:
    """Blocks of the cache, of equal numbers of keys; whole pages where there are pages."""

    def __init__(self, x: Operands, lengths: jax.Array, band: Band) -> None:
        self.x = x
        self.unit, self.units = (1, x.k.shape[1])  # what a block consists of: keys, or pages
        if x.page_table is not None:
            self.unit, self.units = x.k.shape[1], x.page_table.shape[1]
        reach = min(x.capacity, band.upper - band.lower + x.q.shape[1])  # of all queries
        keys = max(_BLOCK_KEYS, reach // _MOST_BLOCKS)
        self.units_of_block = max(1, min(self.units, keys // self.unit))
        self.lengths = lengths
        steps = jnp.arange(x.q.shape[1], dtype=jnp.int32)[None]
        self.positions = lengths[:, None] - x.q.shape[1] + steps
        self.first = jnp.maximum(self.positions + band.lower, 0)  # the first key of each query
        self.last = jnp.minimum(self.positions + band.upper, lengths[:, None] - 1)
        # Before the sequence began there was nobody to ask.
        self.last = jnp.where(self.positions < 0, -1, self.last)

    def span(self) -> tuple[jax.Array, jax.Array]:
        """The first block that anybody sees, and the one behind the last."""
        keys = self.units_of_block * self.unit
        sees = self.first <= self.last
        first = jnp.where(sees, self.first, self.units * self.unit).min() // keys
        return first, jnp.where(sees, self.last // keys + 1, 0).max()

    def fetch(self, index: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Keys and values (B, n, Hkv, ...) of a block, and (B, Sq, n): who sees which.

        The last block begins early enough to be whole, and shows what is new in it alone.
        """
        wanted = index * self.units_of_block
        start = jnp.minimum(wanted, self.units - self.units_of_block)
        keys, values = (self._read(cache, start) for cache in (self.x.k, self.x.v))
        j = start * self.unit + jnp.arange(keys.shape[1], dtype=jnp.int32)[None, None]
        keep = (j >= self.first[..., None]) & (j <= self.last[..., None])
        keep &= j >= wanted * self.unit
        # What nobody sees may be anything, and 0 times NaN is NaN.
        values = jnp.where(keep.any(axis=1)[..., None, None], values, 0)
        return keys, values, keep

    def _read(self, cache: jax.Array, start: jax.Array) -> jax.Array:
        if self.x.page_table is None:
            return lax.dynamic_slice_in_dim(cache, start, self.units_of_block, axis=1)
        pages = lax.dynamic_slice_in_dim(self.x.page_table, start, self.units_of_block, axis=1)
        found = jnp.take(cache, pages, axis=0, mode="clip")
        return found.reshape(pages.shape[0], -1, *cache.shape[2:])


def _block(
    plan: DecodePlan, query: jax.Array, keys: jax.Array, values: jax.Array, keep: jax.Array
) -> _Sums:
    """One block's product (B, Hkv, G, Sq, Dv), and its rows' sums and maxima (B, Hkv, G, Sq)."""
    scores = dot("bihgd,bjhd->bhgij", query, keys) * plan.softmax_scale
    if plan.softcap:
        scores = plan.softcap * jnp.tanh(scores / plan.softcap)
    scores = jnp.where(keep[:, None, None], scores, -jnp.inf)
    peak = scores.max(axis=-1)
    weights = jnp.exp(scores - _finite(peak)[..., None])
    product = dot("bhgij,bjhd->bhgid", weights.astype(values.dtype), values)
    return product, weights.sum(axis=-1), peak


def _zeros(query: jax.Array, x: Operands) -> _Sums:
    """Sums of nothing, which vary over the manual axes that the operands vary over."""
    batch, count, heads_kv, groups, _ = query.shape
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    rows = (batch, heads_kv, groups, count)
    axes = frozenset[Any]().union(*(manual_axes.varying_axes(a) for a in x if a is not None))
    starts = (((*rows, x.v.shape[3]), 0.0), (rows, 0.0), (rows, -jnp.inf))
    product, total, peak = (manual_axes.vary(jnp.full(s, n, dtype), axes) for s, n in starts)
    return product, total, peak


def _merge(sums: _Sums, block: _Sums) -> _Sums:
    """Running sums of a row with a further block's: the online softmax."""
    peak = jnp.maximum(sums[2], block[2])
    old, new = (jnp.exp(x - _finite(peak)) for x in (sums[2], block[2]))
    product = sums[0] * old[..., None] + block[0] * new[..., None]
    return product, sums[1] * old + block[1] * new, peak


def _finite(peak: jax.Array) -> jax.Array:
    """The peak to subtract: 0 in place of the -inf of a row that has seen no key."""
    return jnp.where(jnp.isneginf(peak), 0.0, peak)
