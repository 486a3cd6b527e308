"""Tiles and memory maps of the Blackwell backward at wide heads, by head dims."""

from __future__ import annotations

from dataclasses import dataclass

from jax_fa4.variants.variant import BackwardVariant

TILE = 128  # rows that a CTA owns: lanes of tensor memory
STREAM = 64  # rows of a block that it visits: columns of scores
HALVES = 2  # of a row of scores, a compute warpgroup each
HALF = STREAM // HALVES
STATS_STAGES = 3
TMEM_COLUMNS = 512  # all of it: one CTA a multiprocessor
_SMEM_BYTES = 232448  # what one CTA may have on sm_100: 227 KiB
_SMALL_BYTES = 3072  # barriers and statistics, before the tiles
_ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class TensorMemory:
    """Who has which columns of the 128 lanes x 512 columns of 32 bits; lanes are own rows.

        | sum, 256 | own first, 128 | S, 64 | dP, 64 |                      head dims (256, 256)
        | sum, 192 | own first, 96  | own second, 64 | S, 64 | dP, 64 |     (192, 128)

    The operands are of 16 bits, two elements a cell. Without dP, for dV, its columns are a second
    stage of S. Warpgroup h of compute has the 32 columns of S and of dP from 32 h on. P or dS go to
    the first 16 of the columns that they are made from: no warp writes a cell that another reads.
    Why nothing is overwritten too early, for visits t, t + 1, ... :

    | written         | over              | after                                               |
    |-----------------|-------------------|-----------------------------------------------------|
    | S of t + 1      | S of t            | s_read of t: both halves were read                  |
    | dP of t + 1     | dP of t           | factor_ready of t: both halves were read            |
    |                 | dS of t           | the sum's product with it, earlier, of one thread   |
    | P, dS of t      | S, dP, own columns | the warp's own tcgen05.wait::ld                    |
    | S of t + 2, dV  | S of t            | factor_ready of t                                   |
    |                 | P of t            | the sum's product with it, earlier, of one thread   |
    """

    head_dim: int
    head_dim_v: int

    sum = 0  # first column of dK, dQ or dV

    @property
    def first(self) -> int:
        """Of the own rows of K or Q."""
        return self.sum + max(self.head_dim, self.head_dim_v)

    @property
    def second(self) -> int:
        """Of the own rows of V or dO, if they are here."""
        return self.first + self.head_dim // 2

    @property
    def holds_second(self) -> bool:
        """Whether own rows of V or dO have room, too; else they stay in shared memory."""
        return self.second + self.head_dim_v // 2 + 2 * STREAM <= TMEM_COLUMNS

    @property
    def scores(self) -> int:
        """Of S."""
        return self.second + (self.head_dim_v // 2 if self.holds_second else 0)

    @property
    def dscores(self) -> int:
        """Of dP, or of the second stage of S."""
        return self.scores + STREAM

    @property
    def columns(self) -> int:
        """How many there are in use."""
        return self.dscores + STREAM


@dataclass(frozen=True, kw_only=True)
class WideConfig:
    """How one CTA is built: 128 own rows against blocks of 64.

    Rings of `first_stages` blocks of the stream of Q or K, `second_stages` of that of dO or V.
    Where own rows of V or dO lie in shared memory, dV, which has none, has stages in their place.
    """

    head_dim: int
    head_dim_v: int
    first_stages: int
    second_stages: int

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        if self.tensor_memory.columns > TMEM_COLUMNS:
            raise ValueError(f"{self} needs more than {TMEM_COLUMNS} columns of tensor memory")

    @property
    def tensor_memory(self) -> TensorMemory:
        return TensorMemory(head_dim=self.head_dim, head_dim_v=self.head_dim_v)

    @property
    def second_stages_of_dv(self) -> int:
        """As many as there is room for."""
        own = 0 if self.tensor_memory.holds_second else TILE // STREAM
        return self.second_stages + own

    @property
    def smem_bytes(self) -> int:
        """Of one CTA: both rings, with what is as large as stages of the second."""
        columns = self.head_dim * self.first_stages + self.head_dim_v * self.second_stages_of_dv
        return STREAM * columns * _ELEMENT_BYTES + _SMALL_BYTES


WIDE_CONFIGS: dict[tuple[int, int], WideConfig] = {
    (192, 128): WideConfig(head_dim=192, head_dim_v=128, first_stages=5, second_stages=4),
    (256, 256): WideConfig(head_dim=256, head_dim_v=256, first_stages=3, second_stages=2),
}


def config_of(variant: BackwardVariant) -> WideConfig:
    """How the variant's CTAs are built."""
    return WIDE_CONFIGS[variant.head_dim, variant.head_dim_v]
