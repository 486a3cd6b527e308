"""A multiprocessor's tensor cores as warpgroups share them: a queue of their products.

Measured on an H100 (benchmarks/hopper/units): products run in the order in which they were issued,
whichever warpgroup issued them, and none is issued while DEPTH wait. A warp that issues more than
that has to wait itself, before whatever it does next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

DEPTH = 6  # the 16th product of a group is issued when the 10th begins, for 64 to 256 columns


@dataclass(frozen=True)
class Product:
    """One that all four warps of `warpgroup` have issued; `key` is over `latency` after it."""

    key: Hashable
    warpgroup: int
    cycles: float
    latency: float
    what: str


class Queue:
    """The products that wait, and the one that runs."""

    def __init__(self) -> None:
        self.waiting: deque[Product] = deque()
        self.current: Product | None = None
        self.blocked: list[Any] = []  # warps that may not issue yet

    @property
    def is_full(self) -> bool:
        return len(self.waiting) >= DEPTH

    def begin(self) -> list[Any]:
        """The next product, if there is one; warps that may issue again."""
        self.current = self.waiting.popleft() if self.waiting else None
        if self.current is None:
            return []
        released, self.blocked = self.blocked, []
        return released
