"""The scores of a block, as softmax takes them, and the way back of their gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jax_fa4.ops.blocks import Index, State
from jax_fa4.ops.dense_blocks import Dense
from jax_fa4.ops.grid import Grid, dot
from jax_fa4.ops.scoring import Operands, Scoring
from jax_fa4.ops.visible import Visible

# From the gradient of a block's scores to those of its scaled products and of its bias.
Pull = Callable[[jax.Array], tuple[jax.Array, jax.Array]]


@dataclass(frozen=True)
class BlockScores:
    """S = cap(softmax_scale * Q K^T) + bias where a row sees a key, -inf elsewhere, by blocks.

    cap(x) is softcap * tanh(x / softcap), or x without one.
    """

    scale: float | jax.Array  # (B, Hkv, 1, 1, 1)
    softcap: float
    bias: Dense | None
    visible: Visible

    @classmethod
    def make(cls, grid: Grid, scoring: Scoring, operands: Operands) -> BlockScores:
        bias, mask = (
            None if x is None else Dense.make(x, grid.heads_kv, grid.blocks)
            for x in (operands.bias, operands.mask)
        )
        scale: float | jax.Array = scoring.softmax_scale
        if operands.score_scale is not None:
            scale = (operands.score_scale * scale)[:, :, None, None, None]
        visible = Visible.make(grid.blocks, scoring.band, operands.bounds, mask)
        return cls(scale, scoring.softcap, bias, visible)

    def walk(self, step: Callable[[jax.Array, jax.Array, State], State], state: State) -> State:
        """`state` after `step(row, column, state)` for every block that some row needs."""
        return self.visible.walk(step, state)

    def block(self, query: jax.Array, key: jax.Array, row: Index, column: Index) -> jax.Array:
        """Scores (B, Hkv, G, rows, columns) of a block, -inf where a row does not see a key."""
        scores = self._capped(dot("bhgid,bhjd->bhgij", query, key) * self.scale)
        if self.bias is not None:
            scores = scores + self.bias.block(row, column).astype(scores.dtype)
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
        keep = self.visible.keep(row, column)
        if keep is not None:
            scores = jnp.where(jnp.moveaxis(keep, -1, 2), scores, -jnp.inf)

        def pull(dscores: jax.Array) -> tuple[jax.Array, jax.Array]:
            dproducts = dscores
            if self.softcap:
                dproducts = dscores * (1 - (capped / self.softcap) ** 2)
            return dproducts, jnp.moveaxis(dscores, 2, -1)

        return scores, pull

    def _capped(self, scores: jax.Array) -> jax.Array:
        return self.softcap * jnp.tanh(scores / self.softcap) if self.softcap else scores
