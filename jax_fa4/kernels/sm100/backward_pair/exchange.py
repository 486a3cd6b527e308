"""Messages between the two CTAs of a pair about ordinary shared memory.

Products order themselves by the barriers of both CTAs. What one CTA's threads or copies wrote for a
product that the other CTA issues, a thread of the first sees, and then tells the leader by an
arrival that releases. It does not say `.cluster`, which would be a fence of all memory in each
visit (MEMBAR.ALL.GPU): the tensor core of each CTA reads that CTA's own shared memory. CUTLASS's
arrivals at another CTA's barriers are of this kind, too.
"""

from __future__ import annotations

import cutlass.cute as cute

# Of one lane: destination and barrier at the same places of the other CTA.
_SEND = (
    "{{ .reg .b32 to, at; mapa.shared::cluster.u32 to, {$r0}, {$r4}; "
    "mapa.shared::cluster.u32 at, {$r3}, {$r4}; "
    "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
    "[to], [{$r1}], {$r2}, [at]; }}"
)
_TELL_LEADER = (
    "{{ .reg .b32 at; mapa.shared::cluster.u32 at, {$r0}, 0; "
    "mbarrier.arrive.shared::cluster.b64 _, [at]; }}"
)


def send(target: cute.Pointer, source: cute.Pointer, size: int, barrier: cute.Pointer, peer):
    """Of one thread: `size` bytes to where `target` is in CTA `peer`, whose `barrier` counts them.

    Both are addresses of this CTA.
    """
    arguments = [target.toint(), source.toint(), size, barrier.toint(), peer]
    cute.arch.inline_ptx(_SEND, read_only_args=arguments)


def tell_leader(barrier: cute.Pointer) -> None:
    """Of one thread: arrive at the leader's barrier; it then sees all that this thread saw."""
    cute.arch.inline_ptx(_TELL_LEADER, read_only_args=[barrier.toint()])
