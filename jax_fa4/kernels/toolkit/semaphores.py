"""Counters in global memory by which CTAs of one launch take turns."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Int32

_WAIT = (
    "{{ .reg .pred less; .reg .s32 seen; again: ld.acquire.gpu.global.s32 seen, [{$r0}]; "
    "setp.lt.s32 less, seen, {$r1}; @less bra again; fence.proxy.async.global; }}"
)
_WAIT_FOR_SUMS = (
    "{{ .reg .pred less; .reg .s32 seen; again: ld.acquire.gpu.global.s32 seen, [{$r0}]; "
    "setp.lt.s32 less, seen, {$r1}; @less bra again; }}"
)
_COUNT = "{{ fence.proxy.async.global; red.release.gpu.global.add.s32 [{$r0}], 1; }}"
_COUNT_SUMS = "red.release.gpu.global.add.s32 [{$r0}], 1;"


def wait_for(semaphore: cute.Pointer, count: Int32) -> None:
    """Of one thread: until the semaphore has `count`; its bulk copies then come after."""
    cute.arch.inline_ptx(_WAIT, read_only_args=[semaphore.toint(), count])


def count_one(semaphore: cute.Pointer) -> None:
    """Of one thread: one more, after the bulk copies whose end it has waited for."""
    cute.arch.inline_ptx(_COUNT, read_only_args=[semaphore.toint()])


def wait_for_sums(semaphore: cute.Pointer, count: Int32) -> None:
    """As `wait_for`; then come reductions by the threads that this one tells."""
    cute.arch.inline_ptx(_WAIT_FOR_SUMS, read_only_args=[semaphore.toint(), count])


def count_sums(semaphore: cute.Pointer) -> None:
    """As `count_one`, after reductions by threads for whose arrival this one has waited."""
    cute.arch.inline_ptx(_COUNT_SUMS, read_only_args=[semaphore.toint()])
