"""How the Hopper forward cuts a cell into tiles and hands them out, as its own code does
(jax_fa4/kernels/sm90/forward/walk.py), and what that takes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.cells import Cell
from jax_fa4.kernels.sm90.forward.config import FORWARD_CONFIGS


@dataclass(frozen=True)
class Tile:
    """`blocks` of keys. `sharers` tiles of its head run beside it and are the first that load its
    keys and values; 0 where L2 has them by then.
    """

    blocks: int
    sharers: int


def persistent(cell: Cell) -> bool:
    """Whether CTAs walk several tiles; ForwardConfig.persistent_below."""
    below = FORWARD_CONFIGS[cell.head_dim, cell.head_dim].persistent_below
    return not cell.causal or _blocks(cell, cell.seqlen // 2) < below


def _blocks(cell: Cell, row: int) -> int:
    """That the tile from `row` on visits."""
    config = FORWARD_CONFIGS[cell.head_dim, cell.head_dim]
    end = min(row + config.tile_m, cell.seqlen) if cell.causal else cell.seqlen
    return math.ceil(end / config.tile_n)


def _units(cell: Cell) -> list[list[tuple[int, int]]]:
    """(Head, blocks) of the tiles of each unit of work, in order."""
    rows = range(0, cell.seqlen, FORWARD_CONFIGS[cell.head_dim, cell.head_dim].tile_m)
    blocks = [_blocks(cell, row) for row in reversed(rows)]  # longest first
    heads = range(cell.heads * cell.batch)
    if not cell.causal or not persistent(cell):
        # Tiles that the band cuts go out longest first, of the heads whose keys fit L2.
        group = 1 if not cell.causal else max((32 << 20) // (cell.seqlen * 4 * cell.head_dim), 1)
        firsts = range(0, len(heads), group)
        return [[(h, b)] for first in firsts for b in blocks for h in heads[first : first + group]]
    units = []
    for first in heads[::2]:  # an even number of them in every cell
        for head in (first, first + 1):
            for at in range(len(blocks) // 2):
                units.append([(head, blocks[at]), (head, blocks[-1 - at])])
        if len(blocks) % 2:
            units.append([(head, blocks[len(blocks) // 2]) for head in (first, first + 1)])
    return units


def units(cell: Cell, workers: int) -> list[list[Tile]]:
    """What a CTA takes at a time, in order."""
    found = _units(cell)
    first_wave: dict[int, int] = {}
    sharers: dict[int, int] = {}
    for at, unit in enumerate(found):
        for head in {head for head, _ in unit}:
            if first_wave.setdefault(head, at // workers) == at // workers:
                sharers[head] = sharers.get(head, 0) + 1
    return [
        [
            Tile(blocks, sharers[head] if first_wave[head] == at // workers else 0)
            for head, blocks in unit
        ]
        for at, unit in enumerate(found)
    ]


def cycles(
    cell: Cell,
    workers: int,
    first: Callable[[Tile], float],
    further: Callable[[Tile], float],
    launch: float,
) -> float:
    """Of the whole grid: the longest walk, or free multiprocessors taking the next tile."""
    found = units(cell, workers)
    if persistent(cell):
        starts = range(min(workers, len(found)))
        walks = ([tile for unit in found[start::workers] for tile in unit] for start in starts)
        return max(first(walk[0]) + sum(map(further, walk[1:])) for walk in walks)
    free = [-launch] * workers
    for (tile,) in found:
        heapq.heapreplace(free, free[0] + launch + first(tile))
    return max(free)
