"""Bulk copies of contiguous floats, and sums of registers in global memory."""

from __future__ import annotations

import cutlass.cute as cute

# One lane of the warp asks; its mbarrier expects the bytes.
_LOAD = (
    "{{ .reg .pred p; elect.sync _|p, 0xffffffff; "
    "@p cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
    "[{$r0}], [{$r1}], {$r2}, [{$r3}]; }}"
)
# NOTES: braces of vectors are single, those of blocks double, in the template's syntax.
_ADD = "red.relaxed.gpu.global.add.v4.f32 [{$r0}], { {$r1}, {$r2}, {$r3}, {$r4} };"
_SEND = (
    "{{ .reg .pred p; .reg .b32 to, at; setp.eq.u32 p, {$r4}, 0; "
    "mapa.shared::cluster.u32 to, {$r1}, {$r5}; mapa.shared::cluster.u32 at, {$r3}, {$r5}; "
    "@p cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
    "[to], [{$r0}], {$r2}, [at]; }}"
)


def load_floats(
    source: cute.Pointer, target: cute.Pointer, count: int, barrier: cute.Pointer
) -> None:
    """Copy `count` floats from global to shared memory, both aligned to 16 bytes; as a warp."""
    arguments = [target.toint(), source.toint(), count * 4, barrier.toint()]
    cute.arch.inline_ptx(_LOAD, read_only_args=arguments)


def add_four(target: cute.Pointer, values: cute.Tensor, first: int) -> None:
    """Add values[first : first + 4] to the four floats at `target`, which 16 bytes align."""
    four = [values[first + i] for i in range(4)]
    cute.arch.inline_ptx(_ADD, read_only_args=[target.toint(), *four])


def send(source: cute.Pointer, target: cute.Pointer, size: int, barrier, to: tuple) -> None:
    """Copy `size` bytes to `target` in another CTA's shared memory, as a warp.

    `to` is (lane, rank): lane 0 asks, and CTA `rank` of the cluster gets them; its `barrier`
    expects the bytes. What the warp wrote must be fenced.
    """
    places = [source.toint(), target.toint(), size, barrier.toint()]
    cute.arch.inline_ptx(_SEND, read_only_args=[*places, *to])
