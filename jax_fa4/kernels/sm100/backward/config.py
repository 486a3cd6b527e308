"""Tiles, memory maps and registers of the Blackwell backward, by head dim."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jax_fa4.variants.variant import BackwardVariant

WARP_SIZE = 32
TILE = 128  # keys of a CTA, and queries of a block: both sides of a square of scores
HALVES = 2  # of a row of scores, a compute warpgroup each
HALF = TILE // HALVES
Q_STAGES = 2  # the next S is computed before this dK: both need Q
TMEM_COLUMNS = 512  # all of it: one CTA a multiprocessor
CHUNK = 32  # columns of dQ that a reduce warp sends at a time
_SMEM_BYTES = 232448  # what one CTA may have on sm_100: 227 KiB
_SMALL_BYTES = 3072  # barriers and statistics, before the tiles
_ELEMENT_BYTES = 2
_REGISTERS = 65536
LAUNCH_REGISTERS = 128  # of each of 512 threads


@dataclass(frozen=True, kw_only=True)
class TensorMemory:
    """Who has which columns of the 128 lanes x 512 columns of 32 bits.

    Lanes are keys; dQ's are queries.

        | S^T      | dP^T     | dV     | dK     | dQ |       head dim 64
        | S^T      | dP^T, dQ | dV     | dK     |            where dQ has no room of its own

    Warpgroup h of compute has the 64 columns of S^T and dP^T from 64 h on. P^T and dS^T, two
    elements a cell, go to the first 32 of these: no warp writes a cell that another one reads.
    Why nothing is overwritten too early:

    | written         | over                   | after                                          |
    |-----------------|------------------------|------------------------------------------------|
    | S^T of tile t+1 | S^T of t               | p_ready of t: both halves were read            |
    |                 | P^T of t               | dV of t, an earlier product of the same thread |
    | P^T, dS^T of t  | S^T, dP^T, own columns | the warp's own tcgen05.wait::ld                |
    | dP^T of t+1     | dS^T of t              | dK of t, an earlier product                    |
    |                 | dQ of t, if there      | dq_empty of t                                  |
    | dQ of t         | dP^T of t, if there    | ds_ready of t: both halves were read           |
    |                 | dS^T of t, if there    | dK of t, an earlier product                    |
    |                 | dQ of t-1, otherwise   | dq_empty of t-1                                |
    """

    head_dim: int
    head_dim_v: int

    scores = 0  # first column of S^T
    dscores = TILE  # of dP^T

    @property
    def dv(self) -> int:
        return HALVES * TILE

    @property
    def dk(self) -> int:
        return self.dv + self.head_dim_v

    @property
    def dq_apart(self) -> bool:
        """Whether dQ has columns of its own."""
        return self.dk + 2 * self.head_dim <= TMEM_COLUMNS

    @property
    def dq(self) -> int:
        return self.dk + self.head_dim if self.dq_apart else self.dscores

    @property
    def columns(self) -> int:
        """How many there are in use."""
        return self.dk + self.head_dim * (2 if self.dq_apart else 1)


@dataclass(frozen=True, kw_only=True)
class BackwardConfig:
    """How one CTA is built: 128 keys against blocks of 128 queries.

    Q and dO have rings of their own. dQ leaves CHUNK columns at a time, by `dq_stages` stages, in
    as many rounds of them as it takes; a reduce warp has a row of it in registers, in `dq_parts`
    parts. Registers are for a thread of a compute warp, of a reduce warp, and of
    the other four. `bounded`: rows have bounds of their own; `softcap`: scores have one.
    """

    head_dim: int
    head_dim_v: int
    do_stages: int
    dq_stages: int = 2
    dq_parts: int = 1
    compute_registers: int = 136
    reduce_registers: int = 144
    other_registers: int = 96
    bounded: bool = False
    softcap: bool = False

    def __post_init__(self) -> None:
        if self.head_dim % (CHUNK * self.dq_stages * self.dq_parts) != 0:
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
        """Of one CTA: K and Q, V and dO, dS, and what of dQ is on its way out."""
        rows = self.head_dim * (1 + Q_STAGES) + self.head_dim_v * (1 + self.do_stages) + TILE
        return TILE * (rows * _ELEMENT_BYTES + CHUNK * self.dq_stages * 4) + _SMALL_BYTES

    @property
    def tensor_memory(self) -> TensorMemory:
        return TensorMemory(head_dim=self.head_dim, head_dim_v=self.head_dim_v)


BACKWARD_CONFIGS: dict[tuple[int, int], BackwardConfig] = {
    (64, 64): BackwardConfig(head_dim=64, head_dim_v=64, do_stages=2),
    (96, 96): BackwardConfig(head_dim=96, head_dim_v=96, do_stages=2, dq_stages=3),
    (128, 128): BackwardConfig(head_dim=128, head_dim_v=128, do_stages=1),
}


def config_of(variant: BackwardVariant) -> BackwardConfig:
    """How the variant's CTAs are built."""
    config = BACKWARD_CONFIGS[variant.head_dim, variant.head_dim_v]
    config = replace(config, bounded=variant.bounded, softcap=variant.softcap)
    if variant.softcap and variant.head_dim == 128:
        # Compute holds slopes of the cap beside P; reduce, a part of a row of dQ at a time.
        shares = {"compute_registers": 152, "reduce_registers": 104, "other_registers": 104}
        return replace(config, dq_parts=2, **shares)
    if not variant.deterministic:
        return config
    # Reduce holds a row of dQ while it waits for its turn, and would spill.
    return replace(config, compute_registers=LAUNCH_REGISTERS, reduce_registers=160)
