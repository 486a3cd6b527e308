"""Attention in `lax` alone, block by block: O(S) memory forward and backward.

The forward is the online softmax (Milakov and Gimelshein, arXiv:1805.02867; Rabe and
Staats, arXiv:2112.05682); the backward recomputes each block's probabilities from lse
(Dao, arXiv:2307.08691). Scores, softmax and every sum are float32 (float64 for float64
inputs); probabilities and their gradients round to the inputs' dtype before a product.

Inside, arrays are stacks of blocks: queries (row, B, Hkv, G, rows, D), keys
(column, B, Hkv, columns, D), with G query heads to a key head, so that keys and values
are never expanded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops import manual_axes
from jax_fa4.ops.band import Band
from jax_fa4.ops.blocks import Blocks, both, walk

Index = int | jax.Array


def forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    softmax_scale: float,
    band: Band,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """out (B, Sq, Hq, D) in q's dtype and lse (B, Hq, Sq); see `reference.attention`.

    bias and mask are (B or 1, Hq or 1, Sq or 1, Sk or 1).
    """
    if 0 in q.shape or 0 in k.shape:
        return _empty_forward(q)
    grid = _Grid.make(q, k, softmax_scale, band, bias, mask)
    queries, keys, values = grid.stack_queries(q), grid.stack_keys(k), grid.stack_keys(v)

    def block(row: Index, column: Index) -> tuple[jax.Array, jax.Array, jax.Array]:
        scores = grid.scores(_at(queries, row), _at(keys, column), row, column)
        peak = scores.max(axis=-1)
        weights = jnp.exp(scores - _finite(peak)[..., None])
        value = _at(values, column)
        product = _dot("bhgij,bhjd->bhgid", weights.astype(value.dtype), value)
        return product, weights.sum(axis=-1), peak

    if grid.is_one_block:
        product, total, peak = (x[None] for x in block(0, 0))
    else:

        def step(row: jax.Array, column: jax.Array, state: _Sums) -> _Sums:
            return _update(state, row, _merge(_take(state, row), block(row, column)))

        start = grid.like_queries((0.0, grid.width), (0.0, None), (-jnp.inf, None))
        product, total, peak = walk(grid.spans, step, start)
    seen = total > 0
    out = product / jnp.where(seen, total, 1.0)[..., None]
    lse = jnp.where(seen, jnp.log(jnp.where(seen, total, 1.0)) + _finite(peak), -jnp.inf)
    return grid.unstack_queries(out).astype(q.dtype), grid.unstack_rows(lse)


def row_delta(out: jax.Array, dout: jax.Array, dlse: jax.Array) -> jax.Array:
    """delta = rowsum(dO * O) - dlse, (B, H, S): what the backward takes from dP of a row."""
    product = jnp.einsum("bshd,bshd->bhs", out.astype(dlse.dtype), dout.astype(dlse.dtype))
    return product - dlse


def backward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lse: jax.Array,
    dout: jax.Array,
    delta: jax.Array,
    *,
    softmax_scale: float,
    band: Band,
    bias: jax.Array | None = None,
    mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Gradients (dq, dk, dv, dbias) from the forward's lse and `row_delta`.

    P = exp(S - lse), dV = P^T dO, dS = P * (dO V^T - delta), dQ = scale dS K,
    dK = scale dS^T Q, dbias = dS summed over the axes along which bias was broadcast.
    Rows that saw no key (lse -inf) contribute nothing, whatever their delta. Without a bias
    dbias is None.
    """
    if 0 in q.shape or 0 in k.shape:
        dbias = None if bias is None else jnp.zeros_like(bias)
        return jnp.zeros_like(q), jnp.zeros_like(k), jnp.zeros_like(v), dbias
    grid = _Grid.make(q, k, softmax_scale, band, bias, mask)
    queries, keys, values = grid.stack_queries(q), grid.stack_keys(k), grid.stack_keys(v)
    douts = grid.stack_queries(dout)
    unseen = jnp.isneginf(lse)
    # exp(S - inf) is 0: rows without keys, and the padding of the tail, drop out.
    lses = grid.stack_rows(jnp.where(unseen, jnp.inf, lse), padding=jnp.inf)
    deltas = grid.stack_rows(jnp.where(unseen, 0.0, delta), padding=0.0)

    def block(row: Index, column: Index) -> tuple[jax.Array, ...]:
        # Keys lead here: two of the three products then take the scores as they lie.
        query, key, value = _at(queries, row), _at(keys, column), _at(values, column)
        dout_block = _at(douts, row)
        scores = grid.scores_by_key(query, key, row, column)
        weights = jnp.exp(scores - _at(lses, row)[:, :, None])
        dweights = _dot("bhjd,bhgid->bhjgi", value, dout_block)
        dscores = weights * (dweights - _at(deltas, row)[:, :, None])
        rounded = dscores.astype(query.dtype)
        return (
            _dot("bhjgi,bhjd->bhgid", rounded, key),
            _dot("bhjgi,bhgid->bhjd", rounded, query),
            _dot("bhjgi,bhgid->bhjd", weights.astype(dout_block.dtype), dout_block),
            jnp.moveaxis(dscores, 2, -1),
        )

    if grid.is_one_block:
        dq, dk, dv, dscores = (x[None] for x in block(0, 0))
        dbias = None if grid.bias is None else grid.bias.sum_into_shape(dscores[0])
    else:

        def step(row: jax.Array, column: jax.Array, state: _Gradients) -> _Gradients:
            dq, dk, dv, dbias = state
            dq_part, dk_part, dv_part, dscores = block(row, column)
            if grid.bias is not None:
                dbias = grid.bias.add_block(dbias, dscores, row, column)
            return (
                _add_at(dq, row, dq_part),
                _add_at(dk, column, dk_part),
                _add_at(dv, column, dv_part),
                dbias,
            )

        (dq0,) = grid.like_queries((0.0, grid.width))
        dk0, dv0 = grid.like_keys(), grid.like_keys()
        dbias0 = None if grid.bias is None else grid.varying(grid.bias.zeros())
        dq, dk, dv, dbias = walk(grid.spans, step, (dq0, dk0, dv0, dbias0))
    return (
        (grid.unstack_queries(dq) * softmax_scale).astype(q.dtype),
        (grid.unstack_keys(dk) * softmax_scale).astype(k.dtype),
        grid.unstack_keys(dv).astype(v.dtype),
        None
        if bias is None or dbias is None or grid.bias is None
        else grid.bias.unpad(dbias, bias),
    )


_Sums = tuple[jax.Array, ...]
_Gradients = tuple[jax.Array, jax.Array, jax.Array, Any]


@dataclass(frozen=True)
class _Dense:
    """A bias or mask, (B or 1, Hkv or 1, G or 1, Sq or 1, Sk or 1), its tails padded."""

    array: jax.Array
    blocks: Blocks

    @classmethod
    def make(cls, array: jax.Array, heads_kv: int, blocks: Blocks) -> _Dense:
        batch, heads, rows, columns = array.shape
        split = (1, 1) if heads == 1 else (heads_kv, heads // heads_kv)
        padding = [(0, 0)] * 3 + [
            (0, whole - length if size > 1 else 0)
            for size, length, whole in zip(
                (rows, columns),
                (blocks.query_length, blocks.key_length),
                blocks.padded,
                strict=True,
            )
        ]
        array = array.reshape(batch, *split, rows, columns)
        return cls(jnp.pad(array, padding) if any(map(any, padding)) else array, blocks)

    @property
    def _block(self) -> tuple[int, ...]:
        sizes = (self.blocks.rows, self.blocks.columns)
        return tuple(1 if n == 1 else b for n, b in zip(self.array.shape[3:], sizes, strict=True))

    def _start(self, row: Index, column: Index) -> tuple[Index, ...]:
        rows, columns = self._block
        step = (row * rows if rows > 1 else 0, column * columns if columns > 1 else 0)
        # One integer type, with 64-bit types enabled too.
        return tuple(map(jnp.int32, (0, 0, 0, *step)))

    def block(self, row: Index, column: Index) -> jax.Array:
        sizes = (*self.array.shape[:3], *self._block)
        return lax.dynamic_slice(self.array, self._start(row, column), sizes)

    def zeros(self) -> jax.Array:
        return jnp.zeros(self.array.shape, jnp.promote_types(self.array.dtype, jnp.float32))

    def sum_into_shape(self, dscores: jax.Array) -> jax.Array:
        """One block of score gradients summed over the axes along which this is broadcast."""
        shape = (*self.array.shape[:3], *self._block)
        axes = tuple(a for a, n in enumerate(shape) if n == 1 and dscores.shape[a] > 1)
        return dscores.sum(axis=axes, keepdims=True)

    def add_block(
        self, sums: jax.Array, dscores: jax.Array, row: jax.Array, column: jax.Array
    ) -> jax.Array:
        part, start = self.sum_into_shape(dscores).astype(sums.dtype), self._start(row, column)
        return lax.dynamic_update_slice(
            sums, lax.dynamic_slice(sums, start, part.shape) + part, start
        )

    def unpad(self, gradient: jax.Array, like: jax.Array) -> jax.Array:
        gradient = gradient[:, :, :, : like.shape[2], : like.shape[3]]
        return gradient.reshape(like.shape).astype(like.dtype)


@dataclass(frozen=True)
class _Grid:
    """One problem cut into blocks: how arrays are stacked, and the scores of a block."""

    batch: int
    heads_kv: int
    groups: int
    width: int
    blocks: Blocks
    band: Band
    softmax_scale: float
    spans: list[tuple[int, int, int]]
    bias: _Dense | None
    mask: _Dense | None
    dtype: Any
    axes: frozenset[Any]

    @classmethod
    def make(
        cls,
        q: jax.Array,
        k: jax.Array,
        softmax_scale: float,
        band: Band,
        bias: jax.Array | None,
        mask: jax.Array | None,
    ) -> _Grid:
        batch, query_length, heads, width = q.shape
        key_length, heads_kv = k.shape[1:3]
        blocks = Blocks.choose(query_length, key_length, batch * heads)
        return cls(
            batch=batch,
            heads_kv=heads_kv,
            groups=heads // heads_kv,
            width=width,
            blocks=blocks,
            band=band,
            softmax_scale=softmax_scale,
            spans=blocks.spans(band),
            bias=None if bias is None else _Dense.make(bias, heads_kv, blocks),
            mask=None if mask is None else _Dense.make(mask, heads_kv, blocks),
            dtype=jnp.promote_types(q.dtype, jnp.float32),
            axes=manual_axes.varying_axes(q),
        )

    @property
    def is_one_block(self) -> bool:
        return self.blocks.grid == (1, 1)

    def scores(self, query: jax.Array, key: jax.Array, row: Index, column: Index) -> jax.Array:
        """Scores (B, Hkv, G, rows, columns) of a block, -inf where a row does not see a key."""
        scores = _dot("bhgid,bhjd->bhgij", query, key) * self.softmax_scale
        bias, keep = self._additions(row, column)
        scores = scores if bias is None else scores + bias.astype(scores.dtype)
        return scores if keep is None else jnp.where(keep, scores, -jnp.inf)

    def scores_by_key(
        self, query: jax.Array, key: jax.Array, row: Index, column: Index
    ) -> jax.Array:
        """The same scores as (B, Hkv, columns, G, rows)."""
        scores = _dot("bhjd,bhgid->bhjgi", key, query) * self.softmax_scale
        bias, keep = (
            None if x is None else jnp.moveaxis(x, -1, 2) for x in self._additions(row, column)
        )
        scores = scores if bias is None else scores + bias.astype(scores.dtype)
        return scores if keep is None else jnp.where(keep, scores, -jnp.inf)

    def _additions(self, row: Index, column: Index) -> tuple[jax.Array | None, jax.Array | None]:
        """What a block adds to its scores and which it keeps, broadcastable to them."""
        bias = None if self.bias is None else self.bias.block(row, column)
        keep = self.blocks.keep(self.band, row, column)
        if keep is not None:
            keep = keep[None, None, None]
        return bias, both(keep, None if self.mask is None else self.mask.block(row, column))

    def stack_queries(self, x: jax.Array) -> jax.Array:
        """(B, Sq, Hq, D) to (row, B, Hkv, G, rows, D), the tail padded with zeros."""
        x = _pad(x, 1, self.blocks.padded[0], 0)
        x = x.reshape(self.batch, -1, self.blocks.rows, self.heads_kv, self.groups, self.width)
        return x.transpose(1, 0, 3, 4, 2, 5)

    def unstack_queries(self, x: jax.Array) -> jax.Array:
        x = x.transpose(1, 0, 4, 2, 3, 5).reshape(self.batch, -1, self.heads, self.width)
        return x[:, : self.blocks.query_length]

    def stack_keys(self, x: jax.Array) -> jax.Array:
        """(B, Sk, Hkv, D) to (column, B, Hkv, columns, D), the tail padded with zeros."""
        x = _pad(x, 1, self.blocks.padded[1], 0)
        x = x.reshape(self.batch, -1, self.blocks.columns, self.heads_kv, self.width)
        return x.transpose(1, 0, 3, 2, 4)

    def unstack_keys(self, x: jax.Array) -> jax.Array:
        x = x.transpose(1, 0, 3, 2, 4).reshape(self.batch, -1, self.heads_kv, self.width)
        return x[:, : self.blocks.key_length]

    def stack_rows(self, x: jax.Array, *, padding: float) -> jax.Array:
        """(B, Hq, Sq) to (row, B, Hkv, G, rows)."""
        x = _pad(x, 2, self.blocks.padded[0], padding)
        x = x.reshape(self.batch, self.heads_kv, self.groups, -1, self.blocks.rows)
        return x.transpose(3, 0, 1, 2, 4)

    def unstack_rows(self, x: jax.Array) -> jax.Array:
        x = x.transpose(1, 2, 3, 0, 4).reshape(self.batch, self.heads, -1)
        return x[..., : self.blocks.query_length]

    @property
    def heads(self) -> int:
        return self.heads_kv * self.groups

    def like_queries(self, *fills: tuple[float, int | None]) -> _Sums:
        """Accumulators of a value for every query row: (fill, width or None for one number)."""
        shape = (self.blocks.grid[0], self.batch, self.heads_kv, self.groups, self.blocks.rows)
        return tuple(
            self.varying(jnp.full(shape if width is None else (*shape, width), fill, self.dtype))
            for fill, width in fills
        )

    def like_keys(self) -> jax.Array:
        columns = self.blocks.columns
        shape = (self.blocks.grid[1], self.batch, self.heads_kv, columns, self.width)
        return self.varying(jnp.zeros(shape, self.dtype))

    def varying(self, x: jax.Array) -> jax.Array:
        """`x` typed to enter a loop whose values vary as the queries do (in shard_map)."""
        return manual_axes.vary(x, self.axes)


def _empty_forward(q: jax.Array) -> tuple[jax.Array, jax.Array]:
    batch, length, heads, _ = q.shape
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    return jnp.zeros_like(q), jnp.full((batch, heads, length), -jnp.inf, dtype)


def _merge(sums: _Sums, block: tuple[jax.Array, ...]) -> _Sums:
    """Running (product, total, peak) of a row with a further block's: the online softmax."""
    peak = jnp.maximum(sums[2], block[2])
    old, new = (jnp.exp(x - _finite(peak)) for x in (sums[2], block[2]))
    product = sums[0] * old[..., None] + block[0] * new[..., None]
    return product, sums[1] * old + block[1] * new, peak


def _finite(peak: jax.Array) -> jax.Array:
    """The peak to subtract: 0 in place of the -inf of a row that has seen no key."""
    return jnp.where(jnp.isneginf(peak), 0.0, peak)


def _dot(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(subscripts, a, b, preferred_element_type=dtype)


def _pad(x: jax.Array, axis: int, length: int, value: float) -> jax.Array:
    if x.shape[axis] == length:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths, constant_values=value)


def _at(stack: jax.Array, index: Index) -> jax.Array:
    if isinstance(index, int):
        return stack[index]
    block: jax.Array = lax.dynamic_index_in_dim(stack, index, keepdims=False)
    return block


def _add_at(stack: jax.Array, index: jax.Array, part: jax.Array) -> jax.Array:
    updated: jax.Array = lax.dynamic_update_index_in_dim(stack, _at(stack, index) + part, index, 0)
    return updated


def _take(state: _Sums, row: jax.Array) -> _Sums:
    return tuple(_at(x, row) for x in state)


def _update(state: _Sums, row: jax.Array, new: _Sums) -> _Sums:
    return tuple(
        lax.dynamic_update_index_in_dim(x, part, row, 0) for x, part in zip(state, new, strict=True)
    )
