"""score_mod, mask_mod and dropout of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jax_fa4.ops.blocks import Index
from jax_fa4.ops.grid import Grid
from jax_fa4.ops.mods import ModArrays, Mods, layout_axes

BLOCK = "bhgij"  # B, Hkv, G, rows, columns
BY_KEY = "bhjgi"


@dataclass(frozen=True)
class BlockMods:
    """A call's mods on the blocks of its grid."""

    mods: Mods
    arrays: ModArrays
    grid: Grid

    def score(
        self, scores: jax.Array, floats: Any, row: Index, column: Index, layout: str
    ) -> jax.Array:
        """score_mod of a block's scores, its axes as `layout` says; `floats` it captured."""
        assert self.mods.score is not None
        call = self.mods.score.function(floats, self.arrays.score.others)
        for axes in layout_axes(layout):
            call = jax.vmap(call, axes)
        whole = self._indices(row, column, batch=True, heads=True)
        found: jax.Array = call(scores, *whole).astype(scores.dtype)
        return found

    def keep(self, row: Index, column: Index) -> jax.Array:
        """mask_mod of a block, (B or 1, Hkv or 1, G or 1, rows, columns)."""
        mod = self.mods.mask
        assert mod is not None
        call = mod.function(*self.arrays.mask)
        for axes in layout_axes(BLOCK):
            call = jax.vmap(call, axes[1:])
        indices = self._indices(row, column, batch=mod.uses_batch, heads=mod.uses_head)
        found: jax.Array = call(*indices)
        return found

    def needed(self) -> jax.Array:
        """(block rows, block columns): where mask_mod keeps anything. One block at a time."""
        rows, columns = (jnp.arange(n, dtype=jnp.int32) for n in self.grid.blocks.grid)
        found: jax.Array = lax.map(
            lambda row: lax.map(lambda column: self.keep(row, column).any(), columns), rows
        )
        return found

    def dropped(self, row: Index, column: Index) -> jax.Array:
        """What probabilities of a block are multiplied by: 0 or 1 / (1 - rate)."""
        chance, data = self.mods.dropout, self.arrays.dropout_key
        assert chance is not None
        assert data is not None
        key = jax.random.wrap_key_data(data, impl=chance.impl)
        key = jax.random.fold_in(jax.random.fold_in(key, row), column)
        grid, sizes = self.grid, (self.grid.blocks.rows, self.grid.blocks.columns)
        many = (1, 1, 1) if chance.shared else (grid.batch, grid.heads_kv, grid.groups)
        kept = jax.random.bernoulli(key, 1 - chance.rate, (*many, *sizes))
        return kept.astype(grid.dtype) / (1 - chance.rate)

    def _indices(
        self, row: Index, column: Index, *, batch: bool, heads: bool
    ) -> tuple[jax.Array, ...]:
        """Batch (B,), head (Hkv, G), query and key indices; one of those that are not asked for."""
        grid, blocks = self.grid, self.grid.blocks
        queries = jnp.int32(row) * blocks.rows + jnp.arange(blocks.rows, dtype=jnp.int32)
        keys = jnp.int32(column) * blocks.columns + jnp.arange(blocks.columns, dtype=jnp.int32)
        shape = (grid.heads_kv, grid.groups) if heads else (1, 1)
        return (
            jnp.arange(grid.batch if batch else 1, dtype=jnp.int32),
            jnp.arange(shape[0] * shape[1], dtype=jnp.int32).reshape(shape),
            # The padding of the tail looks up what is there.
            jnp.minimum(queries, blocks.query_length - 1),
            jnp.minimum(keys, blocks.key_length - 1),
        )
