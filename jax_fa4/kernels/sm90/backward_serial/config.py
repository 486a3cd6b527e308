"""Tile sizes, stages and registers of the serial backward, by head dim."""

from __future__ import annotations

from dataclasses import dataclass

from jax_fa4.kernels.sm90.backward.config import BackwardConfig
from jax_fa4.variants.variant import BackwardVariant

KEY_STAGES = 2  # of K
_BARRIER_BYTES = 1024
_ELEMENT_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class SerialConfig(BackwardConfig):
    """A BackwardConfig whose K has two stages, so that the next block's K is there early.

    dV leaves by way of the K that it belongs to, dK by the dS of its own warpgroup.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_dim % self.tile_m != 0 or self.head_dim > self.ds_stages * self.tile_m:
            raise ValueError(f"{self} does not stage dK in dS")

    @property
    def streams_queries(self) -> bool:
        return True

    @property
    def smem_bytes(self) -> int:
        keys = (KEY_STAGES + 1) * self.tile_n * self.head_dim
        queries = 2 * self.stages * self.tile_m * (self.head_dim + 2)
        ds = self.ds_stages * self.tile_m * self.tile_n
        return (keys + queries + ds) * _ELEMENT_BYTES + _BARRIER_BYTES


SERIAL_CONFIGS: dict[int, SerialConfig] = {
    64: SerialConfig(
        head_dim=64,
        stages=4,
        dq_columns=32,
        query_registers=88,
        consumer_registers=208,
    ),
    128: SerialConfig(
        head_dim=128,
        stages=3,
        lookahead=False,
        consumer_loads=True,
        early_groups=4,
        dq_columns=32,
        query_registers=56,
        consumer_registers=224,
    ),
}


def config_of(variant: BackwardVariant) -> SerialConfig:
    """How the variant's CTAs are built."""
    return SERIAL_CONFIGS[variant.head_dim]
