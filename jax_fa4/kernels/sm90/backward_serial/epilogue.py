"""The end of a block of keys: dK and dV through shared memory by TMA, while the next one begins.

CONTRACT: dV is staged in its own K, dK in the dS of its own warpgroup, when dQ of the last step has
read both. Before the next dS is written the warpgroup waits until the copies have read them.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32

from jax_fa4.kernels.sm90.backward import copies
from jax_fa4.kernels.sm90.backward_serial.barriers import NamedBarrier


def _meet(wg) -> None:
    """The threads of one consumer."""
    cute.arch.barrier(barrier_id=int(NamedBarrier.EPILOGUE) + wg, number_of_threads=128)


@cute.jit
def wait_for_copies(wg, thread_index) -> None:
    """Until what the warpgroup staged has been read."""
    if thread_index == 0:
        cute.arch.cp_async_bulk_wait_group(0, read=True)
    _meet(wg)


def _panel(acc, like, panel: int) -> cute.Tensor:
    """As many columns of an accumulator as `like` has."""
    return cute.make_tensor(acc.iterator + panel * cute.size(like), like.layout)


def _store(context, gmem, shared, stage, wg, panel: int):
    """Store a tile of this warpgroup's keys, of a panel of columns; for one thread."""
    target, source = copies.key_tiles(context, gmem, shared, panel)
    number = context.position.key_block * context.config.consumers + wg
    tile, policy = source[None, stage], copies.EVICT_FIRST
    cute.copy(gmem[0], tile, target[None, number], cache_policy=policy)


@cute.jit
def run(context, me, k_stage: Int32) -> None:
    """Write dK, which still wants the scale, and dV of this warpgroup's 64 keys."""
    config, shared, frag = context.config, context.shared, me.frag
    # The last stage of dS that this warpgroup wrote, and its phase.
    place = me.ds_ring.place
    begins = place[0] == 0
    last = Int32(config.ds_stages - 1) if begins else place[0] - 1
    context.barriers["ds_empty"].wait(last, place[1] ^ 1 if begins else place[1])
    for i in cutlass.range_constexpr(cute.size(frag.acc_dK)):
        frag.acc_dK[i] = frag.acc_dK[i] * context.scale
    k_tile = k_stage * config.consumers + me.wg
    tile = shared.sK[None, None, k_tile]
    copies.stage(context, context.tiled_mma_kv, frag.acc_dV, tile, me.thread_index)
    panels = config.head_dim // config.tile_m
    for panel in cutlass.range_constexpr(panels):
        acc = _panel(frag.acc_dK, me.state.acc_dP, panel)
        tile = shared.sdS[None, None, panel * config.consumers + me.wg]
        copies.stage(context, context.tiled_mma_s, acc, tile, me.thread_index)
    cute.arch.fence_view_async_shared()
    _meet(me.wg)
    if me.thread_index == 0:
        _store(context, context.gmem.dv, shared.sK, k_tile, me.wg, 0)
        for panel in cutlass.range_constexpr(panels):
            stage = panel * config.consumers + me.wg
            _store(context, context.gmem.dk, shared.sdS, stage, me.wg, panel)
        cute.arch.cp_async_bulk_commit_group()
