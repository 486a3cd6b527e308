"""Sizes of the decoding kernel, by head dims."""

from __future__ import annotations

from dataclasses import dataclass

WARPS = 4
ROWS = 16  # of queries, a tile of mma.sync
KEYS = 16  # of a block, which one warp visits alone
MIN_BLOCKS = 16  # of a part: fewer keys than 256 do not pay for another CTA and its merging
_RING_BYTES = 24576  # of a warp: with 4 warps and 2 CTAs, 192 KiB a multiprocessor are in flight
_ELEMENT_BYTES = 2
PANEL_COLUMNS = 64  # a panel's rows have 128 bytes, the width of the swizzle
PANEL_BYTES = KEYS * PANEL_COLUMNS * _ELEMENT_BYTES
_PAD = 8  # columns, so that rows of sums begin in other banks


@dataclass(frozen=True)
class DecodeConfig:
    """How one CTA is built: four warps, and rings of blocks of 16 keys and their values."""

    head_dim: int
    head_dim_v: int

    @property
    def threads(self) -> int:
        return 32 * WARPS

    @property
    def key_bytes(self) -> int:
        return KEYS * self.head_dim * _ELEMENT_BYTES

    @property
    def value_bytes(self) -> int:
        return KEYS * self.head_dim_v * _ELEMENT_BYTES

    @property
    def stages(self) -> int:
        """Blocks of a warp's share of the rings."""
        return _RING_BYTES // (self.key_bytes + self.value_bytes)

    @property
    def sum_columns(self) -> int:
        """Floats of a row of a warp's sums, where they lie in the ring at the end."""
        return self.head_dim_v + _PAD
