"""From simulated CTAs to TFLOP/s: what a tile costs by its blocks, and tiles on multiprocessors.

A CTA's time is linear in the blocks of keys that its tile visits. Simulations of two lengths give
the line; further tiles of a persistent CTA, whose loads and first products run under the end of
the tile before, have a line of their own. Longest first, as the kernels' schedulers do it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.timing_model.lines import Line, makespan
from benchmarks.timing_model.units import Chip

TOKENS = 32768  # of a published cell, and queries' heads x head dim
HIDDEN = 2048
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768)
BLOCK = 128  # keys


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What simulations say of one kernel and mask.

    `rows` are the queries of a tile, `multiprocessors` those that share one. `first` is a CTA with
    one tile, `further` each tile after it, None if CTAs have one tile each.
    """

    name: str
    head_dim: int
    causal: bool
    rows: int
    multiprocessors: int
    first: Line
    further: Line | None
    value_dim: int | None = None

    @property
    def flops_dim(self) -> float:
        """Head dim that both products have on average."""
        return (self.head_dim + (self.value_dim or self.head_dim)) / 2


def blocks_of_tiles(kernel: Kernel, length: int) -> list[int]:
    """Blocks that each tile of one head visits, longest first."""
    ends = (
        min(row + kernel.rows, length) if kernel.causal else length
        for row in range(0, length, kernel.rows)
    )
    return sorted((math.ceil(end / BLOCK) for end in ends), reverse=True)


def cycles(kernel: Kernel, length: int, heads: int, chip: Chip) -> float:
    """Of a whole launch; `heads` of all batches together."""
    tiles = blocks_of_tiles(kernel, length)
    workers = chip.multiprocessors // kernel.multiprocessors
    if kernel.further is not None:
        rounds = math.ceil(heads * len(tiles) / workers)
        return kernel.first(tiles[0]) + (rounds - 1) * kernel.further(tiles[0])
    costs = [kernel.first(blocks) + chip.launch for blocks in tiles for _ in range(heads)]
    return makespan(costs, workers)


def tflops(kernel: Kernel, length: int, chip: Chip, heads: int | None = None) -> float:
    """Of a cell with TOKENS tokens, or `heads`; half of the products count under a causal mask."""
    heads = heads or TOKENS // length * (HIDDEN // kernel.head_dim)
    seconds = cycles(kernel, length, heads, chip) / chip.hertz + chip.kernel_launch_seconds
    flops = 4.0 * length * length * kernel.flops_dim * heads * (0.5 if kernel.causal else 1.0)
    return flops / seconds / 1e12
