"""Tile sizes, stages and registers of the Hopper forward, by head dims."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jax_fa4.variants.variant import ForwardVariant

ROWS_PER_WARPGROUP = 64
_SMEM_BYTES = 232448  # what one CTA may have on sm_90: 227 KiB
_BARRIER_BYTES = 1024
_ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class ForwardConfig:
    """How one CTA is built.

    A CTA has one producer warpgroup (one warp of it loads) and `consumers` warpgroups,
    each with 64 rows of queries. K and V have rings of `stages` tiles each, a consumer's
    queries `query_stages`. Where there are two, the next tile's first product is issued
    with this tile's last one and runs beside its end. Where `output_in_values` the output
    is staged in the values' shared memory, and the next tile's values wait for its store;
    elsewhere it has its own.

    At head dim 256 both of these are otherwise, as measured: `converts_early`, P is converted among
    its exponentials (conversion.py); `requests_early`, the next tile's queries are requested when
    this one's last scores are there, not after their softmax.

    Persistent CTAs hide a tile's end under the next one's beginning, but share the work
    out beforehand; a CTA a tile lets the hardware balance it. CTAs are persistent where
    all tiles are alike, and where a tile that the band cuts visits fewer than
    `persistent_below` blocks (measured: benchmarks/NOTES.md).

    Where `bounded`, every row has bounds of its own (bounded.py), and nobody knows before how long
    a tile is: a CTA a tile. Where `softcap`, scores have a soft cap.
    """

    head_dim: int
    head_dim_v: int
    consumers: int
    tile_n: int
    stages: int
    query_stages: int
    output_in_values: bool
    producer_registers: int
    consumer_registers: int
    persistent_below: int
    converts_early: bool = True
    requests_early: bool = False
    bounded: bool = False
    softcap: bool = False

    def __post_init__(self) -> None:
        if self.smem_bytes > _SMEM_BYTES:
            raise ValueError(f"{self} needs {self.smem_bytes} bytes of shared memory")
        registers = 128 * (self.producer_registers + self.consumers * self.consumer_registers)
        if registers > self.launch_registers:
            raise ValueError(f"{self} needs {registers} registers of {self.launch_registers}")
        if self.output_in_values and self.tile_m > self.stages * self.tile_n:
            raise ValueError(f"{self} has no room for the output among the values")
        if self.tile_m - ROWS_PER_WARPGROUP > self.tile_n:
            raise ValueError(f"{self} would let a consumer skip more than a block")

    @property
    def tile_m(self) -> int:
        return ROWS_PER_WARPGROUP * self.consumers

    @property
    def threads(self) -> int:
        return 128 * (1 + self.consumers)

    @property
    def launch_registers(self) -> int:
        """What the CTA starts with, to be shared out anew: the same for each thread, in eights."""
        return 65536 // self.threads // 8 * 8 * self.threads

    @property
    def smem_bytes(self) -> int:
        queries = self.query_stages * self.tile_m * self.head_dim
        output = 0 if self.output_in_values else self.tile_m * self.head_dim_v
        ring = self.stages * self.tile_n * (self.head_dim + self.head_dim_v)
        return (queries + output + ring) * _ELEMENT_BYTES + _BARRIER_BYTES


FORWARD_CONFIGS: dict[tuple[int, int], ForwardConfig] = {
    (64, 64): ForwardConfig(
        head_dim=64,
        head_dim_v=64,
        consumers=3,
        tile_n=128,
        stages=4,
        query_stages=2,
        output_in_values=False,
        producer_registers=32,
        consumer_registers=160,
        persistent_below=48,
    ),
    (96, 96): ForwardConfig(
        head_dim=96,
        head_dim_v=96,
        consumers=2,
        tile_n=128,
        stages=2,
        query_stages=2,
        output_in_values=False,
        producer_registers=24,
        consumer_registers=240,
        persistent_below=48,
    ),
    (128, 128): ForwardConfig(
        head_dim=128,
        head_dim_v=128,
        consumers=2,
        tile_n=128,
        stages=2,
        query_stages=2,
        output_in_values=False,
        producer_registers=24,
        consumer_registers=240,
        persistent_below=48,
    ),
    (192, 128): ForwardConfig(
        head_dim=192,
        head_dim_v=128,
        consumers=2,
        tile_n=128,
        stages=2,
        query_stages=1,
        output_in_values=True,
        producer_registers=40,
        consumer_registers=232,
        persistent_below=64,
    ),
    (256, 256): ForwardConfig(
        head_dim=256,
        head_dim_v=256,
        consumers=2,
        tile_n=80,
        stages=2,
        query_stages=1,
        output_in_values=True,
        producer_registers=24,
        consumer_registers=240,
        persistent_below=64,
        converts_early=False,
        requests_early=True,
    ),
}

# What masks by element take would not fit beside the scores in the registers of three consumers.
_BOUNDED: dict[tuple[int, int], dict[str, int]] = {
    (64, 64): {"consumers": 2, "producer_registers": 24, "consumer_registers": 240},
}


def config_of(variant: ForwardVariant) -> ForwardConfig:
    """How the variant's CTAs are built."""
    head_dims = variant.head_dim, variant.head_dim_v
    config = FORWARD_CONFIGS[head_dims]
    if not variant.bounded:
        return config
    return replace(config, bounded=True, softcap=variant.softcap, **_BOUNDED.get(head_dims, {}))
