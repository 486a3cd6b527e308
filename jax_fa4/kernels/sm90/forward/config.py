"""Tile sizes, stages and registers of the Hopper forward, by head dim."""

from __future__ import annotations

from dataclasses import dataclass

ROWS_PER_WARPGROUP = 64
_SMEM_BYTES = 232448  # what one CTA may have on sm_90: 227 KiB
_BARRIER_BYTES = 1024
_ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class ForwardConfig:
    """How one CTA is built.

    A CTA has one producer warpgroup (one warp of it loads) and `consumers` warpgroups,
    each with 64 rows of queries. K and V have rings of `stages` tiles each. Where
    `output_in_q` the output is staged in the queries' shared memory, and the next tile's
    queries wait for its store; elsewhere it has its own.

    Persistent CTAs hide a tile's epilogue under the next one's loads, but share the work
    out beforehand; a CTA a tile lets the hardware balance it. `persistent_below` is the
    number of KV blocks a tile below which CTAs are persistent: for problems whose tiles
    are all alike, and for those that the band cuts (measured: benchmarks/NOTES.md).
    """

    head_dim: int
    consumers: int
    tile_n: int
    stages: int
    output_in_q: bool
    producer_registers: int
    consumer_registers: int
    persistent_below: tuple[int, int]

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        registers = 128 * (self.producer_registers + self.consumers * self.consumer_registers)
        if registers > 65536:
            raise ValueError(f"{self} needs {registers} registers of the SM's 65536")

    @property
    def tile_m(self) -> int:
        return ROWS_PER_WARPGROUP * self.consumers

    @property
    def threads(self) -> int:
        return 128 * (1 + self.consumers)

    @property
    def smem_bytes(self) -> int:
        query_tiles = 1 if self.output_in_q else 2
        elements = query_tiles * self.tile_m + 2 * self.stages * self.tile_n
        return elements * self.head_dim * _ELEMENT_BYTES + _BARRIER_BYTES


FORWARD_CONFIGS: dict[int, ForwardConfig] = {
    64: ForwardConfig(
        head_dim=64,
        consumers=3,
        tile_n=128,
        stages=4,
        output_in_q=False,
        producer_registers=32,
        consumer_registers=160,
        persistent_below=(1 << 30, 16),
    ),
    128: ForwardConfig(
        head_dim=128,
        consumers=2,
        tile_n=128,
        stages=2,
        output_in_q=False,
        producer_registers=24,
        consumer_registers=240,
        persistent_below=(1 << 30, 6),
    ),
    256: ForwardConfig(
        head_dim=256,
        consumers=2,
        tile_n=80,
        stages=2,
        output_in_q=True,
        producer_registers=24,
        consumer_registers=240,
        persistent_below=(8, 0),
    ),
}
