"""From simulated CTAs to a launch: a tile's cost by its blocks, tiles on multiprocessors."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """cycles = start + slope * blocks."""

    start: float
    slope: float

    def __call__(self, blocks: float) -> float:
        return self.start + self.slope * blocks


def fit(points: Sequence[tuple[float, float]]) -> Line:
    """Least squares of (blocks, cycles); two different numbers of blocks at least."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    return Line(mean_y - slope * mean_x, slope)


def makespan(costs: Sequence[float], workers: int) -> float:
    """Cycles until all is done, if each free worker takes the next."""
    free = [0.0] * workers
    for cost in costs:
        heapq.heapreplace(free, free[0] + cost)
    return max(free)
