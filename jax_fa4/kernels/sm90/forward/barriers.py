"""Named barriers of the Hopper forward; 0 is sync_threads'."""

from __future__ import annotations

from enum import IntEnum


class NamedBarrier(IntEnum):
    """First of a run of barriers, one a consumer warpgroup where not said otherwise."""

    TURN = 1  # 256 threads: a consumer waits, the one before it arrives
    EPILOGUE = 4  # 128 threads: one consumer's own
    VALUES_READ = 7  # all consumers: the last product of each is done; one barrier
