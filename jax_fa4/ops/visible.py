"""Who sees whom, by blocks: the band, run-time bounds and a mask, and which blocks are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jax_fa4.ops.band import UNBOUNDED, Band
from jax_fa4.ops.block_mods import BlockMods
from jax_fa4.ops.blocks import Blocks, Index, State, walk, walk_needed
from jax_fa4.ops.dense_blocks import Dense
from jax_fa4.ops.key_bounds import KeyBounds

KeepMask = jax.Array | None  # None keeps everything


@dataclass(frozen=True)
class Visible:
    """What hides keys from rows, and the walk over the blocks that are left."""

    blocks: Blocks
    band: Band
    bounds: KeyBounds | None  # stacked: (row, B, rows) and (column, B, columns)
    mask: Dense | None
    mods: BlockMods | None = None  # with a mask_mod

    @classmethod
    def make(
        cls,
        blocks: Blocks,
        band: Band,
        bounds: KeyBounds | None,
        mask: Dense | None,
        mods: BlockMods | None = None,
    ) -> Visible:
        stacked = None if bounds is None else _stacked(bounds, blocks)
        return cls(blocks, band, stacked, mask, mods)

    def keep(self, row: Index, column: Index) -> KeepMask:
        """Which scores of a block count, broadcastable to (B, Hkv, G, rows, columns)."""
        found: KeepMask = None if self.mask is None else self.mask.block(row, column)
        in_band = self._in_band(row, column)
        if in_band is not None:
            found = _both(found, in_band[None, None, None])
        if self.bounds is not None:
            found = _both(found, self._in_bounds(row, column)[:, None, None])
        return found if self.mods is None else _both(found, self.mods.keep(row, column))

    def walk(self, step: Callable[[jax.Array, jax.Array, State], State], state: State) -> State:
        """`state` after `step` for every block that some row needs."""
        if self.bounds is None and self.mods is None:
            return walk(self.blocks.spans(self.band), step, state)
        needed = jnp.asarray(self._spanned())
        if self.bounds is not None:
            needed &= self._reached(self.bounds)
        if self.mods is not None:
            needed &= self.mods.needed()
        return walk_needed(needed, step, state)

    def _in_band(self, row: Index, column: Index) -> KeepMask:
        shape = (self.blocks.rows, self.blocks.columns)
        i = jnp.int32(row) * shape[0] + lax.broadcasted_iota(jnp.int32, shape, 0)
        j = jnp.int32(column) * shape[1] + lax.broadcasted_iota(jnp.int32, shape, 1)
        found: KeepMask = None
        if self.band.cuts_left(self.blocks.query_length):
            found = j - i >= self.band.lower
        if self.band.cuts_right(self.blocks.key_length):
            found = _both(found, j - i <= self.band.upper)
        if self.blocks.padded[1] > self.blocks.key_length:
            found = _both(found, j < self.blocks.key_length)
        return found

    def _in_bounds(self, row: Index, column: Index) -> jax.Array:
        assert self.bounds is not None
        first, last, query_ids = (_at(x, row)[:, :, None] for x in self.bounds[:3])
        keys = jnp.int32(column) * self.blocks.columns
        keys = keys + jnp.arange(self.blocks.columns, dtype=jnp.int32)[None, None]
        same = query_ids == _at(self.bounds.key_ids, column)[:, None]
        found: jax.Array = (first <= keys) & (keys <= last) & same
        return found

    def _reached(self, bounds: KeyBounds) -> jax.Array:
        """(block rows, block columns): from which some row of some batch element may see a key."""
        empty = bounds.last < bounds.first
        first = jnp.where(empty, UNBOUNDED, bounds.first).min(axis=2)[:, None]
        last = jnp.where(empty, -1, bounds.last).max(axis=2)[:, None]
        begin = jnp.arange(self.blocks.grid[1], dtype=jnp.int32)[None, :, None]
        begin = begin * self.blocks.columns
        reached = (first < begin + self.blocks.columns) & (last >= begin)
        return reached.any(axis=2)

    def _spanned(self) -> np.ndarray:
        """The same by the band."""
        found = np.zeros(self.blocks.grid, bool)
        for row, first, end in self.blocks.spans(self.band):
            found[row, first:end] = True
        return found


def _stacked(bounds: KeyBounds, blocks: Blocks) -> KeyBounds:
    """Bounds by block row and block column; rows of the tail see nothing."""

    def stack(x: jax.Array, length: int, size: int, filling: int) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, length - x.shape[1])), constant_values=filling)
        return x.reshape(x.shape[0], -1, size).swapaxes(0, 1)

    rows, columns = blocks.padded
    return KeyBounds(
        stack(bounds.first, rows, blocks.rows, 0),
        stack(bounds.last, rows, blocks.rows, -1),
        stack(bounds.query_ids, rows, blocks.rows, 0),
        stack(bounds.key_ids, columns, blocks.columns, 0),
    )


def _both(a: KeepMask, b: jax.Array) -> jax.Array:
    return b if a is None else a & b


def _at(stack: jax.Array, index: Index) -> jax.Array:
    block: jax.Array = lax.dynamic_index_in_dim(stack, index, keepdims=False)
    return block
