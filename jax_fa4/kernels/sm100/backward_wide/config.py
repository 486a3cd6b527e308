"""Tiles and memory maps of the Blackwell backward at wide heads, by head dims."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

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


class Gradient(IntEnum):
    """What a CTA makes."""

    DK = 0
    DQ = 1
    DV = 2
    DK_DV = 3  # both, where tensor memory holds them

    @property
    def of_keys(self) -> bool:
        """Whether the own rows are keys, and the stream is of queries."""
        return self is not Gradient.DQ

    @property
    def takes_dp(self) -> bool:
        """Whether it is made from dP, and so from V and dO by their columns."""
        return self is not Gradient.DV

    @property
    def takes_p(self) -> bool:
        """Whether P is a factor of a sum."""
        return self in (Gradient.DV, Gradient.DK_DV)


@dataclass(frozen=True, kw_only=True)
class TensorMemory:
    """Who has which columns of the 128 lanes x 512 columns of 32 bits; lanes are own rows.

    Head dims (256, 256):

        | dK or dQ, 256 | own K or Q, 128 | S, 64 | dP, 64 |
        | dV, 256       | own K, 128      | S, 64 | S, 64  |

    (192, 128):

        | dV, 128 | dK, 192 | own V, 64 | S, 64 | dP, 64 |
        | dQ, 192 | own Q, 96 | own dO, 64 | S, 64 | dP, 64 |

    Operands are of 16 bits, two elements a cell. Warpgroup h of compute has the 32 columns of S and
    of dP from 32 h on. P and dS go to the first 16 of the columns that they are made from: no warp
    writes a cell that another reads. Why nothing is overwritten too early, for visit t:

    | written                 | over             | after                                           |
    |-------------------------|------------------|-------------------------------------------------|
    | S of t + 1, with no P   | S of t           | s_read of t: both halves were read              |
    | S of t + 1; dV: t + 2   | S and P of t     | p_ready of t; the product with P, of one thread |
    | dP of t + 1             | dP and dS of t   | ds_ready of t; the product with dS, likewise    |
    | P, dS of t              | S, dP, own cells | the warp's own tcgen05.wait::ld                 |
    """

    head_dim: int
    head_dim_v: int
    gradient: Gradient

    dv = 0  # first column of dV

    @property
    def wide(self) -> int:
        """Of dK or dQ."""
        return self.head_dim_v if self.gradient is Gradient.DK_DV else 0

    @property
    def holds_first(self) -> bool:
        """Whether own rows of K or Q are here; else they stay in shared memory."""
        return self.gradient is not Gradient.DK_DV

    @property
    def holds_second(self) -> bool:
        """The same of V or dO."""
        needed = self.second + self.head_dim_v // 2 + 2 * STREAM
        return self.gradient.takes_dp and needed <= TMEM_COLUMNS

    @property
    def first(self) -> int:
        """Of the own rows of K or Q."""
        return self.head_dim_v if self.gradient is Gradient.DV else self.wide + self.head_dim

    @property
    def second(self) -> int:
        """Of the own rows of V or dO."""
        return self.first + (self.head_dim // 2 if self.holds_first else 0)

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
    """What CTAs there are, those of most cycles first, and how one is built: 128 own rows against
    blocks of 64.

    Shared memory has rings of `first_stages` blocks of Q or K and `second_stages` of dO or V. Where
    own rows of one kind lie in shared memory, they take the place of its ring's last stages.
    """

    head_dim: int
    head_dim_v: int
    gradients: tuple[Gradient, ...]
    first_stages: int
    second_stages: int
    bounded: bool = False  # rows have bounds of their own
    softcap: bool = False

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        if any(self.tensor_memory(g).columns > TMEM_COLUMNS for g in self.gradients):
            raise ValueError(f"{self} needs more than {TMEM_COLUMNS} columns of tensor memory")

    def tensor_memory(self, gradient: Gradient) -> TensorMemory:
        return TensorMemory(head_dim=self.head_dim, head_dim_v=self.head_dim_v, gradient=gradient)

    def firsts(self, gradient: Gradient) -> int:
        """Stages of a CTA's ring of Q or K."""
        own = 0 if self.tensor_memory(gradient).holds_first else TILE // STREAM
        return self.first_stages - own

    def seconds(self, gradient: Gradient) -> int:
        """Stages of a CTA's ring of dO or V."""
        held = self.tensor_memory(gradient).holds_second or not gradient.takes_dp
        return self.second_stages - (0 if held else TILE // STREAM)

    def shares_own(self, gradient: Gradient) -> bool:
        """Whether own rows of a CTA lie in shared memory."""
        stages = self.firsts(gradient) + self.seconds(gradient)
        return stages < self.first_stages + self.second_stages

    @property
    def smem_bytes(self) -> int:
        """Of one CTA: both rings."""
        columns = self.head_dim * self.first_stages + self.head_dim_v * self.second_stages
        return STREAM * columns * _ELEMENT_BYTES + _SMALL_BYTES


_THREE = (Gradient.DK, Gradient.DQ, Gradient.DV)
_TWO = (Gradient.DK_DV, Gradient.DQ)
WIDE_CONFIGS: dict[tuple[int, int], WideConfig] = {
    (192, 128): WideConfig(
        head_dim=192, head_dim_v=128, gradients=_TWO, first_stages=6, second_stages=5
    ),
    (256, 256): WideConfig(
        head_dim=256, head_dim_v=256, gradients=_THREE, first_stages=3, second_stages=4
    ),
}


def config_of(variant: BackwardVariant) -> WideConfig:
    """How the variant's CTAs are built."""
    config = WIDE_CONFIGS[variant.head_dim, variant.head_dim_v]
    return replace(config, bounded=variant.bounded, softcap=variant.softcap)
