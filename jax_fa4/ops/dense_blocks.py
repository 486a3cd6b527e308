"""A bias or a mask, cut into blocks as the scores are."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops.blocks import Blocks, Index


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
