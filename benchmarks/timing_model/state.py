"""What a replay keeps of a warp and of a multiprocessor."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.timing_model.streams import Stream
from benchmarks.timing_model.tensor import Queue

SUB_PARTITIONS = 4


class Core:
    """One multiprocessor."""

    def __init__(self, cta: int) -> None:
        self.cta = cta
        self.issue = [0.0] * SUB_PARTITIONS
        self.pipes = [[0.0] * 7 for _ in range(SUB_PARTITIONS)]
        self.tensor = 0.0
        self.load = 0.0
        self.remote = 0.0  # copies to another CTA's shared memory
        self.memory = 0.0  # its share of device memory's pace
        self.products: dict[int, float] = defaultdict(float)  # by warp, end of the last one
        self.queue = Queue()  # of warpgroups' products
        # By warpgroup and number of a product, how many warps issued it so far.
        self.issued: dict[tuple[int, int], int] = defaultdict(int)


class Warp:
    """Where a warp is in its stream, and what it waits for."""

    __slots__ = (
        "at",
        "boards",
        "copies",
        "core",
        "cta",
        "fence",
        "products",
        "stream",
        "sub",
    )

    def __init__(self, stream: Stream, core: Core) -> None:
        self.stream = stream
        self.cta = stream.cta
        self.core = core
        self.sub = stream.warp % SUB_PARTITIONS
        self.at = 0
        self.boards = [0.0] * 8
        self.fence = 0.0  # when its stores to tensor memory are done
        self.products = 0  # of the warpgroup, that it issued
        self.copies: dict[int, float] = {}  # by group, when shared memory was read
