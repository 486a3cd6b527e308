"""The schedule warp: claims this CTA's next tile, where the grid has a CTA for every tile.

The hardware starts CTAs as multiprocessors come free, in the order of tiles. A CTA that nears its
end may instead cancel one that has not started (`clusterlaunchcontrol`), and do its tile: nothing
need start, allocate and fill its pipeline anew, and the loads and the first product of that tile
run under the end of this one. Tiles still go to whoever is free first.

CONTRACT: when the load warp says claim_due, this one asks for a tile; the answer completes on
claim_full. It tells every role the tile's number, or _NO_TILE, by place n mod 2 of `tiles`, for the
n-th claim of this CTA: tile_full, which tile_empty answers. After _NO_TILE it may not ask again
(PTX ISA 9.7.13.17).
"""

from __future__ import annotations

import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm100.forward.config import CLAIM_BYTES
from jax_fa4.kernels.sm100.forward.roles import Role, first_tile, place_of

_NO_TILE = 2**31 - 1

_ASK = (
    "clusterlaunchcontrol.try_cancel.async.shared::cta.mbarrier::complete_tx::bytes.b128 "
    "[{$r0}], [{$r1}];"
)
# Who was first is undefined where nobody was cancelled (PTX ISA 9.7.13.18).
_ANSWER = """{{ .reg .b128 answer; .reg .pred claimed;
ld.shared.b128 answer, [{$r0}];
clusterlaunchcontrol.query_cancel.is_canceled.pred.b128 claimed, answer;
mov.b32 {$w0}, {$r1};
@claimed clusterlaunchcontrol.query_cancel.get_first_ctaid::x.b32.b128 {$w0}, answer; }}"""


@cute.jit
def _claim(context, turn: Int32) -> Int32:
    """Ask for a tile, and wait for the answer, this CTA's number `turn`."""
    barrier, claim = context.barriers["claim_full"], context.shared.claim
    with cute.arch.elect_one():
        barrier.arrive_with_bytes(0, CLAIM_BYTES)
        cute.arch.inline_ptx(_ASK, read_only_args=[claim.toint(), barrier.at(0).toint()])
    barrier.wait(0, turn & 1)
    tile = cute.arch.inline_ptx(
        _ANSWER, write_only_types=[Int32], read_only_args=[claim.toint(), Int32(_NO_TILE)]
    )
    # The next answer is written through the async proxy, after these reads and the warp's arrival.
    cute.arch.fence_view_async_shared()
    return tile


@cute.jit
def _claim_tiles(context) -> None:
    """Until there is none.

    The load warp asks for tile n + 1 in the midst of tile n, when others may still be at n - 1 and
    have not heard of n: hence the second place.
    """
    barriers, tiles = context.barriers, context.shared.tiles
    turn, tile = Int32(0), first_tile(context)
    while tile < context.scheduler.tiles():
        barriers["claim_due"].wait(0, turn & 1)
        tile = _claim(context, turn)
        place, parity = place_of(turn)
        barriers["tile_empty"].wait(place, parity ^ 1)
        with cute.arch.elect_one():
            tiles[place] = tile
        barriers["tile_full"].arrive_as_warp(place)
        turn = turn + 1


@cute.jit
def run(context, warp: Int32) -> None:
    """See the contract above."""
    if warp == Role.SCHEDULE:
        _claim_tiles(context)
