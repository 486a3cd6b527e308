"""Messages between the two CTAs of a pair about ordinary shared memory.

Products order themselves by the barriers of both CTAs; what one CTA's threads or copies wrote for
a product that the other CTA issues needs an arrival that releases it to the cluster.
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
    "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [at]; }}"
)
_HEAR_OF_PEER = (
    "{{ .reg .pred ended; again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 "
    "ended, [{$r0}], {$r1}; @!ended bra again; }}"
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


def hear_of_peer(barrier: cute.Pointer, parity) -> None:
    """Wait for the phase of this parity to end, and see what the other CTA saw."""
    cute.arch.inline_ptx(_HEAR_OF_PEER, read_only_args=[barrier.toint(), parity])
