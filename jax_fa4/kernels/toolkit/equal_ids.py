"""Which ids of others equal a lane's own: a bit each, of all lanes of a warp at once."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Uint32

_ALL_LANES = 0xFFFFFFFF


@cute.jit
def equal_words(own: Int32, others: cute.Tensor) -> cute.Tensor:
    """words[i] of this lane: bit l says whether `own` equals others[i] of lane l.

    The ids that the warp's lanes have are gone through one by one; whoever has the one in hand
    takes the vote's answer. Neighbours mostly have the same, so that one turn serves all; 32 are
    the most that it takes, and no order of ids is asked for.
    """
    words = cute.make_rmem_tensor(cute.size(others), Uint32)
    words.fill(Uint32(0))
    left = Uint32(_ALL_LANES)  # lanes that have no answer yet
    while left != Uint32(0):
        candidate = cute.arch.shuffle_sync(own, Int32(31 - cute.arch.clz(left)))
        is_mine = own == candidate
        for i in cutlass.range_constexpr(cute.size(others)):
            found = Uint32(cute.arch.vote_ballot_sync(others[i] == candidate))
            words[i] = found if is_mine else words[i]
        left = left & ~Uint32(cute.arch.vote_ballot_sync(is_mine))
    return words
