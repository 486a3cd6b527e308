"""Bulk copies and sums of contiguous floats, asked for by a warp."""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Int32

# One lane of the warp asks; its mbarrier expects the bytes.
_LOAD = (
    "{{ .reg .pred p; elect.sync _|p, 0xffffffff; "
    "@p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[{$r0}], [{$r1}], {$r2}, [{$r3}]; }}"
)
_ADD = (
    "{{ .reg .pred p; setp.eq.u32 p, {$r3}, 0; "
    "@p cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [{$r0}], [{$r1}], {$r2}; "
    "@p cp.async.bulk.commit_group; }}"
)
_WAIT_READ = (
    "{{ .reg .pred p; setp.eq.u32 p, {$r0}, 0; @p cp.async.bulk.wait_group.read 0; "
    "bar.warp.sync 0xffffffff; }}"
)


def load_floats(
    source: cute.Pointer, target: cute.Pointer, count: int, barrier: cute.Pointer
) -> None:
    """Copy `count` floats from global to shared memory, both aligned to 16 bytes; as a warp."""
    arguments = [target.toint(), source.toint(), count * 4, barrier.toint()]
    cute.arch.inline_ptx(_LOAD, read_only_args=arguments)


def add_floats(source: cute.Pointer, target: cute.Pointer, count: int, lane: Int32) -> None:
    """Add `count` floats of shared memory to global memory, as a warp whose lane 0 asks.

    Asynchronous; what the warp wrote must be fenced for that.
    """
    arguments = [target.toint(), source.toint(), count * 4, lane]
    cute.arch.inline_ptx(_ADD, read_only_args=arguments)


def wait_until_added(lane: Int32) -> None:
    """Wait, as a warp, until the sources of all its earlier additions have been read."""
    cute.arch.inline_ptx(_WAIT_READ, read_only_args=[lane])
