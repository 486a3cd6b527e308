"""Contiguous runs of float32 between global and shared memory, by bulk copies of one dimension."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Float32

_LOAD = (
    "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[{$r0}], [{$r1}], {$r2}, [{$r3}];"
)
_ADD = "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [{$r0}], [{$r1}], {$r2};"


def load(source: cute.Pointer, target: cute.Pointer, count: int, barrier: cute.Pointer) -> None:
    """Of one thread: `count` floats to shared memory; the barrier hears of their bytes."""
    size = count * Float32.width // 8
    cute.arch.inline_ptx(
        _LOAD, read_only_args=[target.toint(), source.toint(), size, barrier.toint()]
    )


def add(source: cute.Pointer, target: cute.Pointer, count: int) -> None:
    """Of one thread: `count` floats of shared memory onto those in global memory.

    Part of the thread's bulk group; each addition is atomic, and their order is open.
    """
    size = count * Float32.width // 8
    cute.arch.inline_ptx(_ADD, read_only_args=[target.toint(), source.toint(), size])
