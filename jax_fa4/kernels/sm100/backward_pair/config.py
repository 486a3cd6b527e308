"""Tiles, memory maps and registers of the Blackwell backward by pairs of CTAs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jax_fa4.kernels.sm100.backward.config import HALF, HALVES, TILE, TMEM_COLUMNS, WARP_SIZE
from jax_fa4.variants.variant import BackwardVariant

PAIR = 2  # CTAs that multiply together
PAIR_KEYS = PAIR * TILE
STATS_STAGES = 2
PART = 32  # queries: a compute warpgroup has every other part of a block's columns of scores
_SMEM_BYTES = 232448  # what one CTA may have on sm_100: 227 KiB
_SMALL_BYTES = 3072  # barriers and statistics, before the tiles
_ELEMENT_BYTES = 2
_REGISTERS = 65536


@dataclass(frozen=True, kw_only=True)
class TensorMemory:
    """Who has which columns of each CTA's 128 lanes x 512 columns of 32 bits.

    Lanes are the CTA's own keys. dQ is of 64 queries of the CTA's: lanes 0 to 63 have the first
    half of its columns, lanes 64 to 127 the second half.

        | S^T       | dP^T  | dV     | dK     |
        | P^T | dQ  | dS^T  |

    Warpgroup h of compute has parts h and h + 2 of the four parts of 32 columns of S^T and of dP^T.
    P^T and dS^T, two elements a cell, go to part h: no warp writes a cell that another one reads,
    and the upper half of S^T is free for dQ. Why nothing is overwritten too early:

    | written         | over                   | after                                           |
    |-----------------|------------------------|-------------------------------------------------|
    | S^T of tile t+1 | S^T of t               | p_ready of t, which dV of t has waited for      |
    |                 | P^T of t               | dV of t, an earlier product of the same thread  |
    |                 | dQ of t-1              | dq_empty of t-1                                 |
    | P^T, dS^T of t  | S^T, dP^T, own columns | the warp's own tcgen05.wait::ld                 |
    | dP^T of t+1     | dP^T, dS^T of t        | ds_ready of t, and dK of t, an earlier product  |
    | dQ of t         | S^T of t+1             | s_read of t+1: compute of both CTAs have read it |
    |                 | dQ of t-1              | dq_empty of t-1, before S^T of t+1              |
    """

    head_dim: int
    head_dim_v: int

    scores = 0  # first column of S^T
    dq = HALF  # in S^T
    dscores = TILE  # of dP^T
    dv = HALVES * TILE

    @property
    def dk(self) -> int:
        return self.dv + self.head_dim_v

    @property
    def columns(self) -> int:
        """How many there are in use."""
        return self.dk + self.head_dim


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How each CTA of a pair is built: its own 128 keys against the pair's blocks of 128 queries.

    dQ leaves `dq_chunk` columns at a time, by `dq_stages` stages. Registers are for a thread of a
    compute warp, of a reduce warp, and of the other four.
    """

    head_dim: int
    head_dim_v: int
    dq_chunk: int = 16
    dq_stages: int = 2
    compute_registers: int = 152
    reduce_registers: int = 104
    other_registers: int = 104

    def __post_init__(self) -> None:
        if self.head_dim // PAIR % (self.dq_chunk * self.dq_stages) != 0:
            raise ValueError(f"{self} sends dQ in rounds that differ")
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        registers = 128 * (
            HALVES * self.compute_registers + self.reduce_registers + self.other_registers
        )
        if registers > _REGISTERS:
            raise ValueError(f"{self} needs {registers} registers of the SM's {_REGISTERS}")
        if self.tensor_memory.columns > TMEM_COLUMNS:
            raise ValueError(f"{self} needs more than {TMEM_COLUMNS} columns of tensor memory")

    @property
    def smem_bytes(self) -> int:
        """Of one CTA: K, V; K for dQ; Q and dO, twice each; dS, and what of it leaves; dQ."""
        rows = TILE * (self.head_dim + self.head_dim_v)
        halves = PAIR_KEYS * self.head_dim // PAIR + rows // PAIR * 2
        scores = HALF * PAIR_KEYS + HALF * TILE
        elements = rows + halves + scores
        staging = TILE * self.dq_chunk * self.dq_stages * 4
        return elements * _ELEMENT_BYTES + staging + _SMALL_BYTES

    @property
    def dq_piece(self) -> int:
        """Floats of dQ that a warp sends at a time."""
        return WARP_SIZE * self.dq_chunk

    @property
    def tensor_memory(self) -> TensorMemory:
        return TensorMemory(head_dim=self.head_dim, head_dim_v=self.head_dim_v)


PAIR_CONFIGS: dict[tuple[int, int], PairConfig] = {
    (128, 128): PairConfig(head_dim=128, head_dim_v=128),
}


def config_of(variant: BackwardVariant) -> PairConfig:
    """How the variant's CTAs are built."""
    config = PAIR_CONFIGS[variant.head_dim, variant.head_dim_v]
    if not variant.deterministic:
        return config
    # Reduce holds a row of dQ while it waits for its turn.
    return replace(config, compute_registers=144, reduce_registers=120)
