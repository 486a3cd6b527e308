"""Named barriers of the Hopper forward; 0 is sync_threads'."""

from __future__ import annotations

from enum import IntEnum


class NamedBarrier(IntEnum):
    """First of a run of barriers, one a consumer warpgroup."""

    TURN = 1  # 256 threads: a consumer waits, the one before it arrives
    EPILOGUE = 4  # 128 threads: one consumer's own
