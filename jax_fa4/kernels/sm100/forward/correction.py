"""The correction warpgroup: keeps the output in scale, and finishes it.

CONTRACT: thread i of it owns lane i of O[t], as thread i of softmax t owns row i of S[t]. For
every block of t but a tile's first, it takes the rows' scales from sStats[t], scales O[t]
where a row of its warp asks for it, and arrives at pv_ready. For the first block the
arrival says that O[t] of the tile before was read out; the first of all is free. Softmax tells of
a scale when the product before is done; for a tile's last product there is o_full.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, max, min

from jax_fa4.kernels.sm100.forward.config import ROWS, WARP_SIZE
from jax_fa4.kernels.sm100.forward.roles import (
    NamedBarrier,
    first_tile,
    make_turn,
    next_tile,
    work_of,
)
from jax_fa4.kernels.toolkit import swizzled_rows, tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next

CHUNK = 16  # columns of O in registers at a time while it is read out


@cute.jit
def _release_output(context, t: cutlass.Constexpr) -> None:
    """Tell the MMA warp that this warp is done with O[t] for now."""
    tensor_memory.fence_before_sync()
    context.barriers["pv_ready"].arrive_as_warp(t)


@cute.jit
def rescale(context, t: cutlass.Constexpr, scale: Float32, lane: Int32) -> None:
    """O[t] *= scale, if any row of this warp needs it; after, and before, other threads' use."""
    if cute.arch.vote_any_sync(Boolean(scale < 1.0)):
        tensor_memory.fence_after_sync()
        base = context.tmem + context.config.tensor_memory.output_of(t)
        columns = context.config.scaled_columns
        for column in cutlass.range_constexpr(0, context.config.head_dim_v, columns):
            rO = cute.make_rmem_tensor(columns, Float32)
            tensor_memory.load(base + column, rO, lane)
            tensor_memory.wait_loads()
            for c in cutlass.range_constexpr(0, columns, 2):
                rO[c], rO[c + 1] = cute.arch.mul_packed_f32x2((rO[c], rO[c + 1]), (scale, scale))
            tensor_memory.store(rO, base + column, lane)
        tensor_memory.wait_stores()
        tensor_memory.fence_before_sync()


@cute.jit
def _stage_output(
    context, t: cutlass.Constexpr, part: cutlass.Constexpr, scale: Float32, keep: Int32, thread
):
    """Stage a part of O[t] * scale in 16 bits; only bits in `keep`, all or none, are kept."""
    columns = context.config.output_columns
    base = context.tmem + context.config.tensor_memory.output_of(t) + part * columns
    tile = context.shared.output + context.config.output_stage(t, part) * ROWS * columns
    panel = swizzled_rows.panel_of(columns)
    for column in cutlass.range_constexpr(0, columns, CHUNK):
        rO = cute.make_rmem_tensor(CHUNK, Float32)
        tensor_memory.load(base + column, rO, thread)
        tensor_memory.wait_loads()
        for c in cutlass.range_constexpr(0, CHUNK, 2):
            pair = (rO[c], rO[c + 1])
            rO[c], rO[c + 1] = cute.arch.mul_packed_f32x2(pair, (scale, scale))
        rounded = cute.make_rmem_tensor(CHUNK, context.out_dtype)
        convert(rO, rounded)
        words = cute.make_tensor(
            cute.recast_ptr(rounded.iterator, dtype=Int32), cute.make_layout(CHUNK // 2)
        )
        for c in cutlass.range_constexpr(CHUNK // 2):
            words[c] = words[c] & keep
        swizzled_rows.store_columns(rounded, tile, ROWS, thread, column, panel)


@cute.jit
def _finish(context, t: cutlass.Constexpr, stored, work, total: Float32, thread: Int32) -> None:
    """Output of this thread's row; a row that has seen nothing gets 0."""
    barriers = context.barriers
    # Not `total > 0`: a NaN must stay one.
    unseen = total == 0.0
    keep = Int32(0) if unseen else Int32(-1)
    scale = cute.arch.rcp_approx(total)
    if cutlass.const_expr(context.descales is not None):
        scale = scale * context.descales.mV[work.head // context.ratio, work.batch]
    for part in cutlass.range_constexpr(context.config.output_parts):
        stage = context.config.output_stage(t, part)
        wait_next(barriers["o_stored"], stored, stage, producer=True)
        _stage_output(context, t, part, scale, keep, thread)
        if cutlass.const_expr(part == context.config.output_parts - 1):
            _release_output(context, t)
        cute.arch.fence_view_async_shared()
        barriers["o_staged"].arrive_as_warp(stage)


@cute.jit
def _follow(context, tiles: cutlass.Constexpr, steps: Int32, thread: Int32, warp: Int32) -> None:
    """`steps` blocks of each of `tiles`."""
    for _ in cutlass.range(steps, unroll=1):
        for t in cutlass.range_constexpr(tiles.start, tiles.stop):
            cute.arch.barrier(
                barrier_id=NamedBarrier.SCALE + 4 * t + thread // 32,
                number_of_threads=2 * WARP_SIZE,
            )
            scale = context.shared.sStats[thread, 0, t]
            if cutlass.const_expr(context.config.cta_group == 2):
                context.barriers["stats_empty"].arrive_as_warp(4 * t + warp)
            rescale(context, t, scale, 32 * warp)
            context.barriers["pv_ready"].arrive_as_warp(t)


@cute.jit
def _keep_in_scale(context, blocks, thread: Int32, warp: Int32) -> None:
    """All blocks but the tiles' first, in the order of the MMA warp.

    Under a band tile 1 may begin earlier than tile 0, and end earlier.
    """
    first, second = blocks
    steps, others = first.last - first.first - 1, second.last - second.first - 1
    if cutlass.const_expr(context.config.bounded):
        # Either tile may begin earlier, and end later; or have no rows.
        others = max(others, 0)
        before = max(min(first.last - second.last, steps), 0)
        ahead = max(min(second.last - first.last, others), 0)
        both = min(steps - before, others - ahead)
        _follow(context, range(1), before, thread, warp)
        _follow(context, range(1, 2), ahead, thread, warp)
        _follow(context, range(2), both, thread, warp)
        _follow(context, range(1), steps - before - both, thread, warp)
        _follow(context, range(1, 2), others - ahead - both, thread, warp)
    else:
        ahead = max(min(second.last - first.last, others), 0)
        both = max(others - ahead, 0)
        _follow(context, range(1, 2), ahead, thread, warp)
        _follow(context, range(2), both, thread, warp)
        _follow(context, range(1), steps - both, thread, warp)


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    config, barriers, sStats = context.config, context.barriers, context.shared.sStats
    tiles = config.q_tiles
    thread = cute.arch.thread_idx()[0] % ROWS
    warp = cute.arch.make_warp_uniform(thread // 32)
    stats_full, o_full, o_stored = make_counters(tiles), make_counters(tiles), make_counters(tiles)
    for t in cutlass.range_constexpr(tiles):
        barriers["pv_ready"].arrive_as_warp(t)

    tile, turn = first_tile(context), make_turn(context)
    while tile < context.scheduler.tiles():
        work = work_of(context, tile)
        _keep_in_scale(context, work.blocks, thread, warp)
        for t in cutlass.range_constexpr(tiles):
            if work.blocks[t].first < work.blocks[t].last:
                wait_next(barriers["stats_full"], stats_full, 4 * t + warp, counter=t)
                total = sStats[thread, 1, t]
                barriers["stats_empty"].arrive_as_warp(4 * t + warp)
                wait_next(barriers["o_full"], o_full, t)
                tensor_memory.fence_after_sync()
                _finish(context, t, o_stored, work, total, thread)
        tile = next_tile(context, tile, turn)
