"""Tile sizes, stages and registers of the Hopper backward in pairs of CTAs, narrow heads."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jax_fa4.kernels.sm90.backward.config import TURN_WARPS
from jax_fa4.variants.variant import BackwardVariant

PAIR = 2  # CTAs of a cluster
KEYS_PER_WARPGROUP = 64
TILE_M = 64  # queries of a step
Q_RANK, DO_RANK = 0, 1  # which CTA of the pair loads Q, and which dO, for both
_REGISTERS = 65536  # of an SM
_SMEM_BYTES = 232448  # what one CTA may have on sm_90: 227 KiB
_BARRIER_BYTES = 1024
_ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class NarrowConfig:
    """How one CTA of a pair is built.

    Two consumer warpgroups have 64 keys each; a third makes half of the columns of dQ over the keys
    of both CTAs, and one warp of it loads. Q and dO have rings of tiles of 64 queries, with a
    log-sum-exp and a delta a query, and dS, of both CTAs' keys, one of `ds_stages`. dQ is made in
    panels of `dq_columns`, one after the other.

    Registers bind at head dim 128: dK and dV take 128 a thread, S and dP 64, their operands 32.

    Where additions to dQ have an order, a fourth warpgroup has `turn_warps` that see to it, and the
    warp that loads.
    """

    head_dim: int
    q_stages: int
    do_stages: int
    ds_stages: int
    dq_columns: int
    query_registers: int
    consumer_registers: int
    consumers: int = 2
    turn_warps: int = 0
    turn_registers: int = 0

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        if self.half % self.dq_columns != 0:
            raise ValueError(f"{self} does not cut half of dQ into whole panels")
        registers = self.query_registers + self.consumers * self.consumer_registers
        registers = 128 * (registers + self.turn_registers)
        if registers > _REGISTERS // self.threads // 8 * 8 * self.threads:
            raise ValueError(f"{self} needs {registers} registers, more than the launch has")

    @property
    def ctas(self) -> int:
        """Of a cluster."""
        return PAIR

    @property
    def ordered(self) -> bool:
        """Whether additions to dQ have an order."""
        return self.turn_warps > 0

    @property
    def blocks_of_a_head(self) -> int:
        """Of keys, at most, whose CTAs start together where they take turns by ascending keys."""
        return 4

    @property
    def ascends(self) -> bool:
        """Whether turns are by ascending keys always."""
        return True

    @property
    def counts_consumers(self) -> bool:
        """Whether consumers ask if they are, as others are left."""
        return self.ordered

    @property
    def few_registers(self) -> bool:
        """Whether panels of dQ are as sm90/backward/few_registers.py says."""
        return self.query_registers <= 40

    @property
    def head_dim_v(self) -> int:
        return self.head_dim

    @property
    def query_columns(self) -> int:
        """Of a stage of Q."""
        return self.head_dim

    @property
    def gradient_columns(self) -> int:
        """Of a stage of dO."""
        return self.head_dim_v

    @property
    def half(self) -> int:
        """Columns of dQ that a CTA makes."""
        return self.head_dim // PAIR

    @property
    def panels(self) -> int:
        """Of half of dQ's columns."""
        return self.half // self.dq_columns

    @property
    def tile_m(self) -> int:
        return TILE_M

    @property
    def tile_n(self) -> int:
        """Keys of a CTA."""
        return KEYS_PER_WARPGROUP * self.consumers

    @property
    def key_threads(self) -> int:
        """Of the warpgroups that read K."""
        return 128 * (1 + self.consumers)

    @property
    def threads(self) -> int:
        return self.key_threads + (128 if self.ordered else 0)

    @property
    def reads_rows_ahead(self) -> bool:
        """Whether lse_log2 and delta are read while products run."""
        return self.head_dim <= 64

    @property
    def smem_bytes(self) -> int:
        keys = 2 * self.tile_n * self.head_dim + self.tile_n * self.half
        queries = (self.q_stages + self.do_stages) * TILE_M * (self.head_dim + 2)
        ds = PAIR * self.ds_stages * TILE_M * self.tile_n
        return (keys + queries + ds) * _ELEMENT_BYTES + _BARRIER_BYTES


NARROW_CONFIGS: dict[int, NarrowConfig] = {
    64: NarrowConfig(
        head_dim=64,
        q_stages=4,
        do_stages=4,
        ds_stages=2,
        dq_columns=32,
        query_registers=88,
        consumer_registers=208,
    ),
    128: NarrowConfig(
        head_dim=128,
        q_stages=3,
        do_stages=2,
        ds_stages=2,
        dq_columns=32,
        query_registers=56,
        consumer_registers=224,
    ),
}

_ORDERED: dict[int, dict[str, int]] = {
    128: {
        "dq_columns": 16,
        "query_registers": 40,
        "consumer_registers": 224,
        "turn_registers": 24,
    },
}


def config_of(variant: BackwardVariant) -> NarrowConfig:
    """How the variant's CTAs are built."""
    config = NARROW_CONFIGS[variant.head_dim]
    if not variant.deterministic:
        return config
    return replace(config, turn_warps=TURN_WARPS, **_ORDERED[variant.head_dim])
