"""The load warp: fetches the blocks of the stream, with lse and delta where it is of queries.

CONTRACT: the first block of Q or K, with its statistics; own rows that belong in shared memory; the
block of dO or V; then, by `roles.next_visit`, the same of each visit.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass.cute.nvgpu import cpasync

from jax_fa4.kernels.sm100.backward_wide.config import STATS_STAGES, STREAM, TILE
from jax_fa4.kernels.sm100.backward_wide.roles import line_of, next_visit, work_of
from jax_fa4.kernels.toolkit import bulk_rows
from jax_fa4.kernels.toolkit.mbarriers import advance, make_ring, wait_stage


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
def _load_own(context, work, gradient: cutlass.Constexpr, visit) -> None:
    """Own rows, on the first visit."""
    config, shared = context.config, context.shared
    which = [g for g in config.gradients if config.shares_own(g)].index(gradient)
    tma, mX = context.gmem.own[which]
    is_second = config.tensor_memory(gradient).holds_first
    tile = shared.own_second if is_second else shared.own_first
    shape = (TILE, config.head_dim_v if is_second else config.head_dim)
    gX = cute.local_tile(mX[None, None, work.head, work.batch], shape, (None, 0))
    tiles = context.mmas.from_smem.get_slice(0).partition_A(gX)
    source, stages = _partition(tma, tiles, tile)
    full, block = context.barriers["own_full"], work.row // TILE
    if visit == 0:
        _copy(context, full, tma, source[None, block], stages[None, 0], 0)


@cute.jit
def _load_first(context, ring, work, gradient: cutlass.Constexpr, head, block) -> None:
    """A block of Q or K."""
    barriers = context.barriers
    tma, mX = context.gmem.q if gradient.of_keys else context.gmem.k
    wait_stage(barriers["first_empty"], ring, producer=True)
    shape = (STREAM, context.config.head_dim)
    gX = cute.local_tile(mX[None, None, head, work.batch], shape, (None, 0))
    tiles = context.mmas.from_smem.get_slice(0).partition_B(gX)
    source, stages = _partition(tma, tiles, context.shared.first)
    stage = ring.stage
    _copy(context, barriers["first_full"], tma, source[None, block], stages[None, stage], stage)
    advance(ring)


@cute.jit
def _load_second(context, ring, work, gradient: cutlass.Constexpr, head, block) -> None:
    """A block of dO or V."""
    barriers = context.barriers
    tma, mX = context.gmem.do if gradient.of_keys else context.gmem.v
    wait_stage(barriers["second_empty"], ring, producer=True)
    shape = (STREAM, context.config.head_dim_v)
    gX = cute.local_tile(mX[None, None, head, work.batch], shape, (None, 0))
    tiles = context.mmas.from_smem.get_slice(0).partition_B(gX)
    source, stages = _partition(tma, tiles, context.shared.second)
    stage = ring.stage
    _copy(context, barriers["second_full"], tma, source[None, block], stages[None, stage], stage)
    advance(ring)


@cute.jit
def _load_statistics(context, ring, work, gradient: cutlass.Constexpr, head, block) -> None:
    """lse, and delta where dP is made, of a block of queries."""
    barriers, gmem = context.barriers, context.gmem
    wait_stage(barriers["stats_empty"], ring, producer=True)
    full, stage = barriers["stats_full"], ring.stage
    row = line_of(context, work.batch, head) + block * STREAM
    arrays = (gmem.lse_log2, gmem.delta) if gradient.takes_dp else (gmem.lse_log2,)
    with cute.arch.elect_one():
        full.arrive_with_bytes(stage, len(arrays) * STREAM * 4)
        target = context.shared.stats.iterator + stage * (2 * STREAM)
        for which, array in enumerate(arrays):
            bulk_rows.load(array + row, target + which * STREAM, STREAM, full.at(stage))
    advance(ring)


@cute.jit
def run(context, gradient: cutlass.Constexpr) -> None:
    """See the contract above."""
    config, work = context.config, work_of(context, gradient)
    first, second = make_ring(config.firsts(gradient)), make_ring(config.seconds(gradient))
    stats = make_ring(STATS_STAGES)
    head, block = work.stream_head, work.first
    for visit in cutlass.range(work.visits, unroll=1):
        _load_first(context, first, work, gradient, head, block)
        if cutlass.const_expr(gradient.of_keys):
            _load_statistics(context, stats, work, gradient, head, block)
        if cutlass.const_expr(config.shares_own(gradient)):
            _load_own(context, work, gradient, visit)
        _load_second(context, second, work, gradient, head, block)
        head, block = next_visit(work, head, block)

    # Stay until every stage was read, so that no product arrives at a dead CTA's barrier.
    for name, ring in (("first_empty", first), ("second_empty", second)):
        for _ in cutlass.range_constexpr(ring.stages):
            wait_stage(context.barriers[name], ring, producer=True)
            advance(ring)
