"""The load warp: fetches K and V once, and Q, dO, lse and delta for every block of queries.

CONTRACT: K, Q and statistics of the first visit, V, dO; then, by `roles.next_visit`, Q,
statistics and dO of each. A stage of statistics goes with the stage of Q of the same number.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.backward.config import Q_STAGES, TILE
from jax_fa4.kernels.sm100.backward.roles import next_visit, place_of, work_of
from jax_fa4.kernels.toolkit import bulk_rows
from jax_fa4.kernels.toolkit.mbarriers import advance, make_ring, wait_stage

_STATISTICS_BYTES = 2 * TILE * 4


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


@cute.jit
def _copy(context, full, tma, source, destination, stage):
    """Start a copy that completes on barrier `stage` of `full`, which is free to use."""
    size = cute.size_in_bytes(context.dtype, destination.layout)
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, size)
    cute.copy(tma, source, destination, tma_bar_ptr=full.at(stage))


@cute.jit
def _load_keys(context, work, name: cutlass.Constexpr) -> None:
    """K or V of the CTA's keys."""
    config, slices = context.config, context.mmas.scores.get_slice(0)
    is_k = name == "k"
    tma, mX = context.gmem.k if is_k else context.gmem.v
    width = config.head_dim if is_k else config.head_dim_v
    shared = context.shared.sK if is_k else context.shared.sV
    gX = cute.local_tile(mX[None, None, work.head_kv, work.batch], (TILE, width), (None, 0))
    source, stages = _partition(tma, slices.partition_A(gX), shared)
    _copy(
        context,
        context.barriers["k_full" if is_k else "v_full"],
        tma,
        source[None, work.key // TILE],
        stages[None, 0],
        0,
    )


@cute.jit
def _load_statistics(context, ring, row: Int64) -> None:
    """lse and delta of 128 queries, the first of which is `row` of all heads and batches."""
    barriers, sStats, gmem = context.barriers, context.shared.sStats, context.gmem
    wait_stage(barriers["stats_empty"], ring, producer=True)
    full = barriers["stats_full"]
    stage = ring.stage
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, _STATISTICS_BYTES)
        target = sStats.iterator + stage * (2 * TILE)
        bulk_rows.load(gmem.lse_log2 + row, target, TILE, full.at(stage))
        bulk_rows.load(gmem.delta + row, target + TILE, TILE, full.at(stage))


@cute.jit
def _load_queries(context, ring, work, head: Int32, block: Int32) -> None:
    """Q, with its statistics."""
    barriers, (tma, mQ) = context.barriers, context.gmem.q
    wait_stage(barriers["q_empty"], ring, producer=True)
    gQ = cute.local_tile(
        mQ[None, None, head, work.batch], (TILE, context.config.head_dim), (None, 0)
    )
    thread_tiles = context.mmas.scores.get_slice(0).partition_B(gQ)
    source, stages = _partition(tma, thread_tiles, context.shared.sQ)
    stage = ring.stage
    _copy(context, barriers["q_full"], tma, source[None, block], stages[None, stage], stage)
    _load_statistics(context, ring, place_of(context, work, head, block) * TILE)
    advance(ring)


@cute.jit
def _load_doutput(context, ring, work, head: Int32, block: Int32) -> None:
    """dO."""
    barriers, (tma, mdO) = context.barriers, context.gmem.do
    wait_stage(barriers["do_empty"], ring, producer=True)
    gdO = cute.local_tile(
        mdO[None, None, head, work.batch], (TILE, context.config.head_dim_v), (None, 0)
    )
    thread_tiles = context.mmas.scores.get_slice(0).partition_B(gdO)
    source, stages = _partition(tma, thread_tiles, context.shared.sdO)
    stage = ring.stage
    _copy(context, barriers["do_full"], tma, source[None, block], stages[None, stage], stage)
    advance(ring)


@cute.jit
def run(context) -> None:
    """See the contract above."""
    work = work_of(context)
    q_ring, do_ring = make_ring(Q_STAGES), make_ring(context.config.do_stages)
    head, block = work.head_kv * context.ratio, work.first
    _load_keys(context, work, "k")
    _load_queries(context, q_ring, work, head, block)
    _load_keys(context, work, "v")
    _load_doutput(context, do_ring, work, head, block)
    for _ in cutlass.range(1, work.visits, unroll=1):
        head, block = next_visit(work, head, block)
        _load_queries(context, q_ring, work, head, block)
        _load_doutput(context, do_ring, work, head, block)

    # Stay until every stage was read, so that no product arrives at a dead CTA's barrier.
    for name, ring in (("q_empty", q_ring), ("do_empty", do_ring)):
        for _ in cutlass.range_constexpr(ring.stages):
            wait_stage(context.barriers[name], ring, producer=True)
            advance(ring)
