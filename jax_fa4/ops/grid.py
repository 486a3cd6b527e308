"""One problem cut into blocks: how its arrays are stacked, and the scores of a block.

Queries are stacked as (row, B, Hkv, G, rows, D) and keys as (column, B, Hkv, columns, D),
with G query heads to a key head, so that keys and values are never expanded. D is the array's
own: that of values and outputs may differ from that of queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops import manual_axes
from jax_fa4.ops.band import Band
from jax_fa4.ops.blocks import Blocks, both

# Of a block row or column: a number, or a loop's counter.
Index = int | jax.Array


@dataclass(frozen=True)
class Dense:
    """A bias or mask, (B or 1, Hkv or 1, G or 1, Sq or 1, Sk or 1), its tails padded."""

    array: jax.Array
    blocks: Blocks

    @classmethod
    def make(cls, array: jax.Array, heads_kv: int, blocks: Blocks) -> Dense:
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
class Grid:
    """One problem cut into blocks: how arrays are stacked, and the scores of a block."""

    batch: int
    heads_kv: int
    groups: int
    blocks: Blocks
    band: Band
    softmax_scale: float | jax.Array  # (B, Hkv, 1, 1, 1)
    spans: list[tuple[int, int, int]]
    bias: Dense | None
    mask: Dense | None
    dtype: Any
    axes: frozenset[Any]

    @classmethod
    def make(
        cls,
        q: jax.Array,
        k: jax.Array,
        softmax_scale: float | jax.Array,
        band: Band,
        bias: jax.Array | None,
        mask: jax.Array | None,
    ) -> Grid:
        batch, query_length, heads, _ = q.shape
        key_length, heads_kv = k.shape[1:3]
        blocks = Blocks.choose(query_length, key_length, batch * heads)
        return cls(
            batch=batch,
            heads_kv=heads_kv,
            groups=heads // heads_kv,
            blocks=blocks,
            band=band,
            softmax_scale=softmax_scale,
            spans=blocks.spans(band),
            bias=None if bias is None else Dense.make(bias, heads_kv, blocks),
            mask=None if mask is None else Dense.make(mask, heads_kv, blocks),
            dtype=jnp.promote_types(q.dtype, jnp.float32),
            axes=manual_axes.varying_axes(q),
        )

    @property
    def is_one_block(self) -> bool:
        return self.blocks.grid == (1, 1)

    def scores(self, query: jax.Array, key: jax.Array, row: Index, column: Index) -> jax.Array:
        """Scores (B, Hkv, G, rows, columns) of a block, -inf where a row does not see a key."""
        scores = dot("bhgid,bhjd->bhgij", query, key) * self.softmax_scale
        bias, keep = self._additions(row, column)
        scores = scores if bias is None else scores + bias.astype(scores.dtype)
        return scores if keep is None else jnp.where(keep, scores, -jnp.inf)

    def scores_by_key(
        self, query: jax.Array, key: jax.Array, row: Index, column: Index
    ) -> jax.Array:
        """The same scores as (B, Hkv, columns, G, rows)."""
        scores = dot("bhjd,bhgid->bhjgi", key, query) * self.softmax_scale
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
        x = x.reshape(self.batch, -1, self.blocks.rows, self.heads_kv, self.groups, x.shape[-1])
        return x.transpose(1, 0, 3, 4, 2, 5)

    def unstack_queries(self, x: jax.Array) -> jax.Array:
        x = x.transpose(1, 0, 4, 2, 3, 5).reshape(self.batch, -1, self.heads, x.shape[-1])
        return x[:, : self.blocks.query_length]

    def stack_keys(self, x: jax.Array) -> jax.Array:
        """(B, Sk, Hkv, D) to (column, B, Hkv, columns, D), the tail padded with zeros."""
        x = _pad(x, 1, self.blocks.padded[1], 0)
        x = x.reshape(self.batch, -1, self.blocks.columns, self.heads_kv, x.shape[-1])
        return x.transpose(1, 0, 3, 2, 4)

    def unstack_keys(self, x: jax.Array) -> jax.Array:
        x = x.transpose(1, 0, 3, 2, 4).reshape(self.batch, -1, self.heads_kv, x.shape[-1])
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

    def like_queries(self, *fills: tuple[float, int | None]) -> tuple[jax.Array, ...]:
        """Accumulators of a value for every query row: (fill, width or None for one number)."""
        shape = (self.blocks.grid[0], self.batch, self.heads_kv, self.groups, self.blocks.rows)
        return tuple(
            self.varying(jnp.full(shape if width is None else (*shape, width), fill, self.dtype))
            for fill, width in fills
        )

    def like_keys(self, width: int) -> jax.Array:
        columns = self.blocks.columns
        shape = (self.blocks.grid[1], self.batch, self.heads_kv, columns, width)
        return self.varying(jnp.zeros(shape, self.dtype))

    def varying(self, x: jax.Array) -> jax.Array:
        """`x` typed to enter a loop whose values vary as the queries do (in shard_map)."""
        return manual_axes.vary(x, self.axes)


def dot(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """einsum that accumulates and returns float32, float64 for float64."""
    dtype = jnp.promote_types(a.dtype, jnp.float32)
    return jnp.einsum(subscripts, a, b, preferred_element_type=dtype)


def _pad(x: jax.Array, axis: int, length: int, value: float) -> jax.Array:
    if x.shape[axis] == length:
        return x
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths, constant_values=value)
