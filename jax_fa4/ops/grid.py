"""One problem cut into blocks: how its arrays are stacked.

Queries are stacked as (row, B, Hkv, G, rows, D) and keys as (column, B, Hkv, columns, D),
with G query heads to a key head, so that keys and values are never expanded. D is the array's
own: that of values and outputs may differ from that of queries and keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jax_fa4.ops import manual_axes
from jax_fa4.ops.blocks import Blocks


@dataclass(frozen=True)
class Grid:
    """The sizes of a problem and of its blocks, and the layout of arrays by blocks."""

    batch: int
    heads_kv: int
    groups: int
    blocks: Blocks
    dtype: Any
    axes: frozenset[Any]

    @classmethod
    def make(cls, q: jax.Array, k: jax.Array) -> Grid:
        batch, query_length, heads, _ = q.shape
        key_length, heads_kv = k.shape[1:3]
        return cls(
            batch=batch,
            heads_kv=heads_kv,
            groups=heads // heads_kv,
            blocks=Blocks.choose(query_length, key_length, batch * heads),
            dtype=jnp.promote_types(q.dtype, jnp.float32),
            axes=manual_axes.varying_axes(q),
        )

    @property
    def is_one_block(self) -> bool:
        return self.blocks.grid == (1, 1)

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
