"""Tile sizes, stages and registers of the Hopper backward in pairs of CTAs, by head dim."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jax_fa4.kernels.sm90.backward.config import TURN_WARPS
from jax_fa4.variants.variant import BackwardVariant

PAIR = 2  # CTAs of a cluster
TILE_M = 64  # queries of a step
TILE_N = 64  # keys of a CTA
HALVES = 2  # of a tile of queries: its left and right columns
WARPGROUP = 128  # threads
_REGISTERS = 65536
_SMEM_BYTES = 232448  # what one CTA may have on sm_90: 227 KiB
_ELEMENT_BYTES = 2
_BARRIER_BYTES = 512


@dataclass(frozen=True, kw_only=True)
class PairConfig:
    """How one CTA of a pair is built.

    A warpgroup each for dV, dK and dQ, and one of which one warp loads. Q and dO have rings of
    `q_stages` and `do_stages` half tiles; P, which becomes dS, and the other CTA's dS have one of
    `ds_stages`. dQ is made in panels of `dq_columns`, one after the other.

    Registers at head dim 256: dV or dK take 128 a thread, S or dP 32, their operand 16,
    and P beside dP 16. At (192, 128) dV takes 64 and dK 96. NOTES: half of dQ at once, 96 columns
    instead of 32, would read dS once, and is up to 9 % slower.
    """

    head_dim: int  # of Q and K
    head_dim_v: int
    q_stages: int
    do_stages: int
    ds_stages: int
    dq_columns: int
    value_registers: int
    key_registers: int
    query_registers: int
    load_registers: int
    consumers: int = 1  # blocks of 64 keys
    turn_warps: int = 0  # where additions to dQ have an order

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        if self.query_columns % self.dq_columns != 0:
            raise ValueError(f"{self} does not cut half of dQ into whole panels")
        registers = self.value_registers + self.key_registers
        registers += self.query_registers + self.load_registers
        if WARPGROUP * registers > _REGISTERS:
            raise ValueError(f"{self} needs {WARPGROUP * registers} registers")

    @property
    def ordered(self) -> bool:
        """Whether additions to dQ have an order."""
        return self.turn_warps > 0

    @property
    def blocks_of_a_head(self) -> int:
        """Of keys, at most, whose CTAs start together where they take turns by ascending keys."""
        return 8

    @property
    def ascends(self) -> bool:
        """Whether turns are by ascending keys always."""
        return False

    @property
    def ctas(self) -> int:
        """Of a cluster."""
        return PAIR

    @property
    def tile_m(self) -> int:
        return TILE_M

    @property
    def tile_n(self) -> int:
        """Keys of a CTA."""
        return TILE_N

    @property
    def query_columns(self) -> int:
        """Of a stage of Q: half a tile's."""
        return self.head_dim // HALVES

    @property
    def gradient_columns(self) -> int:
        """Of a stage of dO: half a tile's."""
        return self.head_dim_v // HALVES

    @property
    def panels(self) -> int:
        """Of half of dQ's columns."""
        return self.query_columns // self.dq_columns

    @property
    def threads(self) -> int:
        return 4 * WARPGROUP

    @property
    def smem_bytes(self) -> int:
        keys = TILE_N * (self.head_dim + self.head_dim_v + self.query_columns)
        queries = self.q_stages * TILE_M * (self.query_columns + 2)
        queries += self.do_stages * TILE_M * (self.gradient_columns + 2)
        ds = PAIR * self.ds_stages * TILE_M * TILE_N
        return (keys + queries + ds) * _ELEMENT_BYTES + _BARRIER_BYTES


# By the head dims of Q and K, and of V.
PAIR_CONFIGS: dict[tuple[int, int], PairConfig] = {
    (192, 128): PairConfig(
        head_dim=192,
        head_dim_v=128,
        q_stages=6,
        do_stages=6,
        ds_stages=3,
        dq_columns=32,
        value_registers=184,
        key_registers=232,
        query_registers=72,
        load_registers=24,
    ),
    (256, 256): PairConfig(
        head_dim=256,
        head_dim_v=256,
        q_stages=4,
        do_stages=3,
        ds_stages=2,
        dq_columns=64,
        value_registers=200,
        key_registers=224,
        query_registers=64,
        load_registers=24,
    ),
}


def config_of(variant: BackwardVariant) -> PairConfig:
    """How the variant's CTAs are built."""
    config = PAIR_CONFIGS[variant.head_dim, variant.head_dim_v]
    return replace(config, turn_warps=TURN_WARPS) if variant.deterministic else config
