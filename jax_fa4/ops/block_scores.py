"""The scores of a block, as softmax takes them, and the way back of their gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_fa4.ops.block_mods import BLOCK, BY_KEY, BlockMods
from jax_fa4.ops.blocks import Index, State
from jax_fa4.ops.dense_blocks import Dense
from jax_fa4.ops.grid import Grid, dot
from jax_fa4.ops.mods import ModArrays
from jax_fa4.ops.scoring import Operands, Scoring
from jax_fa4.ops.visible import Visible

# From the gradient of a block's scores to those of its scaled products, of its bias, and of the
# floating-point arrays that score_mod captured.
Floats = tuple[jax.Array, ...]
Pull = Callable[[jax.Array], tuple[jax.Array, jax.Array, Floats]]


@dataclass(frozen=True)
class BlockScores:
    """S = score_mod(cap(softmax_scale * Q K^T) + bias) where a row sees a key, else -inf.

    cap(x) is softcap * tanh(x / softcap), or x without one. All by blocks.
    """

    scale: float | jax.Array  # (B, Hkv, 1, 1, 1)
    softcap: float
    bias: Dense | None
    visible: Visible
    mods: BlockMods

    @classmethod
    def make(cls, grid: Grid, scoring: Scoring, operands: Operands) -> BlockScores:
        bias, mask = (
            None if x is None else Dense.make(x, grid.heads_kv, grid.blocks)
            for x in (operands.bias, operands.mask)
        )
        scale: float | jax.Array = scoring.softmax_scale
        if operands.score_scale is not None:
            scale = (operands.score_scale * scale)[:, :, None, None, None]
        mods = BlockMods(scoring.mods, operands.mods or ModArrays(), grid)
        hides = mods if scoring.mods.mask is not None else None
        visible = Visible.make(grid.blocks, scoring.band, operands.bounds, mask, hides)
        return cls(scale, scoring.softcap, bias, visible, mods)

    @property
    def floats(self) -> Floats:
        """The floating-point arrays that score_mod captured."""
        return self.mods.arrays.score.floats

    def dropped(self, row: Index, column: Index) -> jax.Array | None:
        """What probabilities (B, Hkv, G, rows, columns) are multiplied by; None for nothing."""
        return None if self.mods.mods.dropout is None else self.mods.dropped(row, column)

    def walk(self, step: Callable[[jax.Array, jax.Array, State], State], state: State) -> State:
        """`state` after `step(row, column, state)` for every block that some row needs."""
        return self.visible.walk(step, state)

    def block(self, query: jax.Array, key: jax.Array, row: Index, column: Index) -> jax.Array:
        """Scores (B, Hkv, G, rows, columns) of a block, -inf where a row does not see a key."""
        scores = self._capped(dot("bhgid,bhjd->bhgij", query, key) * self.scale)
        if self.bias is not None:
            scores = scores + self.bias.block(row, column).astype(scores.dtype)
        if self.mods.mods.score is not None:
            scores = self.mods.score(scores, self.floats, row, column, BLOCK)
        keep = self.visible.keep(row, column)
        return scores if keep is None else jnp.where(keep, scores, -jnp.inf)

    def block_by_key(
        self, query: jax.Array, key: jax.Array, row: Index, column: Index
    ) -> tuple[jax.Array, Pull]:
        """The same scores as (B, Hkv, columns, G, rows), and the way back of their gradient.

        The bias's gradient comes back as (B, Hkv, G, rows, columns).
        """
        capped = self._capped(dot("bhjd,bhgid->bhjgi", key, query) * self.scale)
        scores = capped
        if self.bias is not None:
            bias = jnp.moveaxis(self.bias.block(row, column), -1, 2)
            scores = scores + bias.astype(scores.dtype)
        through_mod = None
        if self.mods.mods.score is not None:
            scores, through_mod = jax.vjp(
                lambda x, floats: self.mods.score(x, floats, row, column, BY_KEY),
                scores,
                self.floats,
            )
        keep = self.visible.keep(row, column)
        if keep is not None:
            scores = jnp.where(jnp.moveaxis(keep, -1, 2), scores, -jnp.inf)

        def pull(dscores: jax.Array) -> tuple[jax.Array, jax.Array, Floats]:
            floats: Floats = ()
            if through_mod is not None:
                dscores, floats = through_mod(dscores)
            if through_mod is not None and keep is not None:
                # What is not seen has no gradient, even where score_mod has none that is finite.
                dscores = jnp.where(jnp.moveaxis(keep, -1, 2), dscores, 0.0)
            dproducts = dscores
            if self.softcap:
                dproducts = dscores * (1 - (capped / self.softcap) ** 2)
            return dproducts, jnp.moveaxis(dscores, 2, -1), floats

        return scores, pull

    def _capped(self, scores: jax.Array) -> jax.Array:
        return self.softcap * jnp.tanh(scores / self.softcap) if self.softcap else scores
