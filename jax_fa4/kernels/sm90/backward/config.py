"""Tile sizes, stages and registers of the Hopper backward, by head dim."""

from __future__ import annotations

from dataclasses import dataclass

KEYS_PER_WARPGROUP = 64
_SMEM_BYTES = 232448  # what one CTA may have on sm_90: 227 KiB
_BARRIER_BYTES = 1024
_ELEMENT_BYTES = 2
_MMA_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class BackwardConfig:
    """How one CTA is built.

    A CTA has one producer warpgroup (one warp of it loads) and two consumer warpgroups, each
    with 64 keys. Q and dO have rings of `stages` tiles of `tile_m` queries, with a log-sum-exp
    and a delta a query. Of dQ, `tile_m` x `head_dim`, each consumer makes a panel: 64 rows of all
    columns, or all 64 rows of its share of the columns.
    """

    head_dim: int
    tile_m: int
    stages: int
    consumers: int = 2
    ds_buffers: int = 2
    producer_registers: int = 24
    consumer_registers: int = 240

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        if self.tile_m not in (_MMA_ROWS, _MMA_ROWS * self.consumers):
            raise ValueError(f"{self} does not cut dQ into a panel a consumer")

    @property
    def tile_n(self) -> int:
        return KEYS_PER_WARPGROUP * self.consumers

    @property
    def dq_by_rows(self) -> bool:
        """Whether consumers share dQ's rows; else they share its columns."""
        return self.tile_m > _MMA_ROWS

    @property
    def dq_columns(self) -> int:
        return self.head_dim if self.dq_by_rows else self.head_dim // self.consumers

    @property
    def threads(self) -> int:
        return 128 * (1 + self.consumers)

    @property
    def smem_bytes(self) -> int:
        keys = 2 * self.tile_n * self.head_dim
        queries = 2 * self.stages * self.tile_m * (self.head_dim + 2)
        ds = self.ds_buffers * self.tile_m * self.tile_n
        dq = 2 * self.tile_m * self.head_dim
        return (keys + queries + ds + dq) * _ELEMENT_BYTES + _BARRIER_BYTES


BACKWARD_CONFIGS: dict[int, BackwardConfig] = {
    64: BackwardConfig(head_dim=64, tile_m=64, stages=2),
    128: BackwardConfig(head_dim=128, tile_m=64, stages=2),
}
