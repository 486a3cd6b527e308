"""Recordings of a Hopper forward replayed: what a tile costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from benchmarks.cells import Cell
from benchmarks.hopper.timing import launch
from benchmarks.hopper.timing.launch import Tile
from benchmarks.hopper.timing.record import LONE, WALKS
from benchmarks.timing_model.events import Key
from benchmarks.timing_model.lines import Line, fit
from benchmarks.timing_model.recorded import Folder
from benchmarks.timing_model.units import Chip
from jax_fa4.kernels.sm90.forward.config import FORWARD_CONFIGS, ForwardConfig

_MOST_SHARERS = 8  # more of them load what is next to nothing for each


@dataclass
class Forward(Folder):
    """A folder of recordings of the forward of one head dim."""

    head_dim: int
    _firsts: dict[tuple[bool, float, int], Line] = field(default_factory=dict)

    @property
    def config(self) -> ForwardConfig:
        return FORWARD_CONFIGS[self.head_dim, self.head_dim]

    @cached_property
    def _query_barriers(self) -> range:
        """Addresses of the barriers that copies of Q arrive at: the first in shared memory."""
        first = min(
            thing
            for stream in self.streams("full_512")
            for event in stream.events.values()
            if event.opcode.startswith("cp.async.bulk.tensor") and "mbarrier" in event.opcode
            for thing, _, _ in event.started
        )
        return range(first, first + 8 * self.config.consumers * self.config.query_stages)

    def _fresh(self, sharers: int) -> Callable[[Key], float]:
        """Q is this CTA's alone; K and V are in L2 already, or fetched together."""

        def share(key: Key) -> float:
            if key[1] in self._query_barriers:
                return 1.0
            return 1.0 / sharers if sharers else 0.0

        return share

    def _end(self, run: str, chip: Chip, sharers: int) -> float:
        (end,) = self.replay(run, chip, self._fresh(sharers)).end.values()
        return end

    def first(self, causal: bool, chip: Chip, sharers: int) -> Line:
        """Of a CTA with one tile, or the first of several; `chip` differs in its clock alone."""
        key = (causal, chip.hertz, sharers)
        if key not in self._firsts:
            mask = "causal" if causal else "full"
            points = [
                (math.ceil(keys / self.config.tile_n), self._end(f"{mask}_{keys}", chip, sharers))
                for keys in LONE
            ]
            self._firsts[key] = fit(points)
        return self._firsts[key]

    def further(self, causal: bool, chip: Chip, sharers: int, length: int) -> Line:
        """Of each tile after the first of a CTA, as in a walk of a length near `length`."""
        first = self.first(causal, chip, sharers)
        length = min(WALKS, key=lambda known: abs(known - length))
        end = self._end(f"{'causal' if causal else 'full'}_{length}_walk", chip, sharers)
        rows = range(self.config.tile_m, length + self.config.tile_m, self.config.tile_m)
        seen = [min(row, length) for row in rows] if causal else [length] * 3
        blocks = [math.ceil(keys / self.config.tile_n) for keys in seen]
        start = (end - first.start - first.slope * sum(blocks)) / (len(blocks) - 1)
        return Line(start, first.slope)

    def cycles(self, cell: Cell, chip: Chip) -> float:
        """Of one call, from the first CTA's begin to the last one's end."""
        known: dict[tuple[bool, int], Line] = {}

        def cost(tile: Tile, is_first: bool) -> float:
            sharers = min(tile.sharers, _MOST_SHARERS)
            if (is_first, sharers) not in known:
                known[is_first, sharers] = (
                    self.first(cell.causal, chip, sharers)
                    if is_first
                    else self.further(cell.causal, chip, sharers, cell.seqlen)
                )
            return known[is_first, sharers](tile.blocks)

        return launch.cycles(
            cell,
            chip.multiprocessors,
            lambda tile: cost(tile, True),
            lambda tile: cost(tile, False),
            chip.launch,
        )
