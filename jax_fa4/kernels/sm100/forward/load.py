"""The load warp: fetches Q, K and V tiles by TMA.

CONTRACT: for every tile of its CTA, in the scheduler's order, it fills the ring with K and
V of each block that any of the tiles visits, from the last block to the first, K before
V, and sQ[t] for each t that has rows, after the first K.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.forward.config import ROWS, TILE_N
from jax_fa4.kernels.sm100.forward.roles import first_tile, next_tile, work_of
from jax_fa4.kernels.toolkit.mbarriers import (
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)


def _partition(tma, thread_tiles, shared):
    """(source by tile, destination by stage) of a TMA copy of whole tiles."""
    destination, source = cpasync.tma_partition(
        tma,
        0,
        cute.make_layout(1),
        cute.group_modes(shared, 0, 3),
        cute.group_modes(thread_tiles, 0, 3),
    )
    return source, destination


def _copy(context, full, tma, source, destination, stage):
    """Start a copy that completes on barrier `stage` of `full`, which is free to use."""
    with cute.arch.elect_one():
        size = cute.size_in_bytes(context.dtype, destination.layout)
        full.arrive_with_bytes(stage, size)
    cute.copy(tma, source, destination, tma_bar_ptr=full.at(stage))


def _fill_ring(context, ring, tma, sources, destination):
    """Load `sources` into the next stages of the ring."""
    barriers = context.barriers
    for source in sources:
        wait_stage(barriers["kv_empty"], ring, producer=True)
        _copy(context, barriers["kv_full"], tma, source, destination[None, ring.stage], ring.stage)
        advance(ring)


def _k_parts(context, source, block):
    """Block `block` of K, a part of its columns after the other."""
    return [source[None, block, part] for part in range(context.config.k_parts)]


def _v_parts(context, source, block):
    """Block `block` of V, a part of its keys after the other."""
    parts = context.config.v_parts
    return [source[None, block * parts + part] for part in range(parts)]


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    config, shared, barriers = context.config, context.shared, context.barriers
    tma_q, mQ = context.gmem.q
    tma_k, mK = context.gmem.k
    tma_v, mV = context.gmem.v
    thr_qk = context.tiled_mma_qk.get_slice(0)
    thr_pv = context.tiled_mma_pv.get_slice(0)
    d, d_v = config.head_dim, config.head_dim_v
    k_tile, v_tile = (TILE_N, d // config.k_parts), (d_v, TILE_N // config.v_parts)
    ring = make_ring(config.kv_stages)
    q_uses = make_counters(config.q_tiles)

    tile = first_tile()
    while tile < context.scheduler.tiles():
        work = work_of(context, tile)
        head_kv = work.head // context.ratio
        gQ = cute.local_tile(mQ[None, None, work.head, work.batch], (ROWS, d), (None, 0))
        gK = cute.local_tile(mK[None, None, head_kv, work.batch], k_tile, (None, None))
        gV = cute.local_tile(mV[None, None, head_kv, work.batch], v_tile, (0, None))
        q_source, q_stage = _partition(tma_q, thr_qk.partition_A(gQ), shared.sQ)
        k_source, k_stage = _partition(tma_k, thr_qk.partition_B(gK), shared.sK)
        v_source, v_stage = _partition(tma_v, thr_pv.partition_B(gV), shared.sV)

        block = work.last - 1
        _fill_ring(context, ring, tma_k, _k_parts(context, k_source, block), k_stage)
        for t in cutlass.range_constexpr(config.q_tiles):
            if work.blocks[t].first < work.blocks[t].last:
                wait_next(barriers["q_empty"], q_uses, t, producer=True)
                source = q_source[None, work.row // ROWS + t]
                _copy(context, barriers["q_full"], tma_q, source, q_stage[None, t], t)
        _fill_ring(context, ring, tma_v, _v_parts(context, v_source, block), v_stage)
        for i in cutlass.range(work.last - 1 - work.first, unroll=1):
            block = work.last - 2 - i
            _fill_ring(context, ring, tma_k, _k_parts(context, k_source, block), k_stage)
            _fill_ring(context, ring, tma_v, _v_parts(context, v_source, block), v_stage)
        tile = next_tile(tile)

    # Stay until every stage was read, so that no product arrives at a dead CTA's barrier.
    for _ in cutlass.range_constexpr(config.kv_stages):
        wait_stage(barriers["kv_empty"], ring, producer=True)
        advance(ring)
    for t in cutlass.range_constexpr(config.q_tiles):
        wait_next(barriers["q_empty"], q_uses, t, producer=True)
