"""The correction warpgroup where a CTA has one tile of queries.

CONTRACT: that of `correction`, by slot instead of tile. Two accumulators, each of every other
block, are merged when the tile ends: with the shifts s of their exponents, sums l, and w[t] =
exp2(min(s) - s[t]),

    O = (w[0] O[0] + w[1] O[1]) / (w[0] l[0] + w[1] l[1])

One accumulator is scaled once o_full says that the product before is over, and the arrival for
a tile's first block goes to the slot that it will have. Row r of the tile is of the head and
position that `head_packing` gives it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, min

from jax_fa4.kernels.sm100.forward import bounded
from jax_fa4.kernels.sm100.forward.config import ROWS, SLOTS
from jax_fa4.kernels.sm100.forward.correction import (
    CHUNK,
    rescale,
)
from jax_fa4.kernels.sm100.forward.roles import PackedTile, first_tile, next_tile, packed_tile
from jax_fa4.kernels.toolkit import swizzled_rows, tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert
from jax_fa4.kernels.toolkit.forward_arrays import LN_2
from jax_fa4.kernels.toolkit.mbarriers import make_counters, wait_next


@dataclass(frozen=True)
class Thread:
    """This thread's lane and the barriers that its warp has used."""

    lane: Int32
    warp: Int32
    stats_full: cute.Tensor
    o_full: cute.Tensor
    o_stored: cute.Tensor


@dataclass(frozen=True)
class Ending:
    """What a tile's end makes of this thread's row."""

    parts: tuple[Boolean, ...]  # by accumulator: whether it holds something
    scales: tuple[Float32, ...]  # by accumulator
    unseen: Boolean  # the row saw no key: 0 and -inf
    lse: Float32


@cute.jit
def _statistics(context, thread: Thread, t: cutlass.Constexpr, count: cutlass.Constexpr):
    """The next `count` numbers of this row that softmax t hands over."""
    barriers, sStats = context.barriers, context.shared.sStats
    wait_next(barriers["stats_full"], thread.stats_full, 4 * t + thread.warp, counter=t)
    numbers = tuple(sStats[thread.lane, i, t] for i in range(count))
    barriers["stats_empty"].arrive_as_warp(4 * t + thread.warp)
    return numbers


def _parts(context, begin: Int32, visits: Int32) -> tuple[Boolean, ...]:
    """Which accumulators have some of a tile's blocks, those number `begin` and on of the CTA."""
    if context.config.outputs == 1:
        return (Boolean(True),)
    return tuple((visits > 1) | ((begin & 1) == t) for t in range(SLOTS))


@cute.jit
def _hear_of_first_blocks(context, thread: Thread, begin: Int32, visits: Int32) -> None:
    """An accumulator's first block of a tile has nothing to scale; it is only counted."""
    parts = _parts(context, begin, visits)
    for t in cutlass.range_constexpr(context.config.outputs):
        if parts[t]:
            _statistics(context, thread, t, 1)


@cute.jit
def _correct(context, thread: Thread, n: Int32) -> None:
    """Bring O to the scale of this CTA's block number `n`, which is not O's first of a tile."""
    outputs = context.config.outputs
    for t in cutlass.range_constexpr(outputs):
        if (n & (outputs - 1)) == t:
            (scale,) = _statistics(context, thread, t, 1)
            if cutlass.const_expr(outputs < SLOTS):
                wait_next(context.barriers["o_full"], thread.o_full, 0)
            tensor_memory.fence_after_sync()
            rescale(context, t, scale, thread.lane)
            tensor_memory.fence_before_sync()
            context.barriers["pv_ready"].arrive_as_warp(n & (SLOTS - 1))


@cute.jit
def _final_statistics(context, thread: Thread, t: cutlass.Constexpr, takes_part: Boolean):
    """Sum and shift of softmax t; (0, 0), as of a row without keys, if it took no part."""
    total, shift = Float32(0.0), Float32(0.0)
    if takes_part:
        total, shift = _statistics(context, thread, t, 2)
    return total, shift


@cute.jit
def _end(context, thread: Thread, begin: Int32, visits: Int32, head: Int32) -> Ending:
    """Merge the statistics of blocks number `begin` and on, for a row of query head `head`."""
    unseen = None
    if cutlass.const_expr(context.config.bounded):
        # One accumulator. `unseen` by the sum without a sink.
        divisor, shift = _statistics(context, thread, 0, 2)
        divisor, total, shift = bounded.with_sink(context, head, divisor, shift)
        unseen = divisor == 0.0
        parts, scales = _parts(context, begin, visits), (cute.arch.rcp_approx(divisor),)
    elif cutlass.const_expr(context.config.outputs == 1):
        total, shift = _statistics(context, thread, 0, 2)
        parts, scales = _parts(context, begin, visits), (cute.arch.rcp_approx(total),)
    else:
        parts = _parts(context, begin, visits)
        l0, s0 = _final_statistics(context, thread, 0, parts[0])
        l1, s1 = _final_statistics(context, thread, 1, parts[1])
        # The shift of a row without keys means nothing.
        shift = cute.arch.fmin(s0, s1)
        shift = s1 if l0 == 0.0 else shift
        shift = s0 if l1 == 0.0 else shift
        w0 = Float32(0.0) if l0 == 0.0 else cute.math.exp2(shift - s0, fastmath=True)
        w1 = Float32(0.0) if l1 == 0.0 else cute.math.exp2(shift - s1, fastmath=True)
        total = w0 * l0 + w1 * l1
        inverse = cute.arch.rcp_approx(total)
        scales = (w0 * inverse, w1 * inverse)
    # Not `total > 0`: a NaN must stay one. The very shift that the exponents had: its rounding
    # is in `total`, and cancels.
    lse = (cute.math.log2(total, fastmath=True) - shift) * LN_2
    if cutlass.const_expr(not context.config.bounded):
        unseen = total == 0.0
    return Ending(parts, scales, unseen, lse)


@cute.jit
def _weighted_sum(terms: list[cute.Tensor], weights: tuple[Float32, ...]) -> cute.Tensor:
    """The sum of weights[t] terms[t], in terms[0]."""
    total = terms[0]
    for t in cutlass.range_constexpr(len(terms)):
        weight = (weights[t], weights[t])
        for c in cutlass.range_constexpr(0, cute.size(total), 2):
            pair, rest = (terms[t][c], terms[t][c + 1]), (total[c], total[c + 1])
            if cutlass.const_expr(t == 0):
                total[c], total[c + 1] = cute.arch.mul_packed_f32x2(pair, weight)
            else:
                total[c], total[c + 1] = cute.arch.fma_packed_f32x2(pair, weight, rest)
    return total


@cute.jit
def _stage_sum(context, thread: Thread, terms, weights, keep: Int32, part: cutlass.Constexpr):
    """sO = a part of the sum of weights[i] O[terms[i]], in 16 bits; bits in `keep`, all or none."""
    columns = context.config.output_columns
    for column in cutlass.range_constexpr(0, columns, CHUNK):
        loaded = [cute.make_rmem_tensor(CHUNK, Float32) for _ in terms]
        for i in cutlass.range_constexpr(len(terms)):
            first = context.config.tensor_memory.output_of(terms[i]) + part * columns + column
            tensor_memory.load(context.tmem + first, loaded[i], thread.lane)
        tensor_memory.wait_loads()
        rO = _weighted_sum(loaded, weights)
        rounded = cute.make_rmem_tensor(CHUNK, context.out_dtype)
        convert(rO, rounded)
        words = cute.make_tensor(
            cute.recast_ptr(rounded.iterator, dtype=Int32), cute.make_layout(CHUNK // 2)
        )
        for c in cutlass.range_constexpr(CHUNK // 2):
            words[c] = words[c] & keep
        swizzled_rows.store_columns(
            rounded,
            context.shared.output,
            ROWS,
            thread.lane,
            column,
            swizzled_rows.panel_of(columns),
        )


@cute.jit
def _stage_output(context, thread: Thread, ending: Ending, part: cutlass.Constexpr) -> None:
    """sO = a part of the output, of the accumulators that hold something."""
    keep, scales = Int32(0) if ending.unseen else Int32(-1), ending.scales
    if cutlass.const_expr(len(scales) == 1):
        _stage_sum(context, thread, (0,), scales, keep, part)
    elif ending.parts[0] & ending.parts[1]:
        _stage_sum(context, thread, (0, 1), scales, keep, part)
    else:
        t = Int32(0) if ending.parts[0] else Int32(1)
        scale = scales[0] if ending.parts[0] else scales[1]
        _stage_sum(context, thread, (t,), (scale,), keep, part)


def _head_of(context, thread: Thread, work: PackedTile) -> Int32 | None:
    """Query head of this thread's row, where it matters; some head if the row has none."""
    if not context.config.bounded:
        return None
    head, _ = context.packing.place_of(thread.lane)
    return work.head + min(head, context.packing.heads_from(work.head) - 1)


@cute.jit
def _finish(context, thread: Thread, work: PackedTile, done: Int32) -> None:
    """Output and lse of the tile that begins with block number `done` of this CTA."""
    barriers, packing, mLSE = context.barriers, context.packing, context.gmem.mLSE
    ending = _end(context, thread, done, work.visits, _head_of(context, thread, work))
    for t in cutlass.range_constexpr(context.config.outputs):
        if ending.parts[t]:
            wait_next(barriers["o_full"], thread.o_full, t)
    tensor_memory.fence_after_sync()
    for part in cutlass.range_constexpr(context.config.output_parts):
        wait_next(barriers["o_stored"], thread.o_stored, 0, producer=True)
        _stage_output(context, thread, ending, part)
        if cutlass.const_expr(part == context.config.output_parts - 1):
            tensor_memory.fence_before_sync()
            if cutlass.const_expr(context.config.outputs == 1):
                barriers["pv_ready"].arrive_as_warp((done + work.visits) & (SLOTS - 1))
            else:
                for slot in cutlass.range_constexpr(SLOTS):
                    if ending.parts[slot]:
                        barriers["pv_ready"].arrive_as_warp(slot)
        cute.arch.fence_view_async_shared()
        barriers["o_staged"].arrive_as_warp(0)
    head, position = packing.place_of(thread.lane)
    row = work.row + position
    if (row < context.band.seqlen_q) & (head < packing.heads_from(work.head)):
        lse = -Float32.inf if ending.unseen else ending.lse
        if cutlass.const_expr(context.config.bounded):
            # Of a row that saw nothing, it is the sink.
            lse = ending.lse
        mLSE[row, work.head + head, work.batch] = lse


@cute.jit
def run(context) -> None:
    """Walk this CTA's tiles; see the contract above."""
    lane = cute.arch.thread_idx()[0] % ROWS
    outputs = context.config.outputs
    warp = cute.arch.make_warp_uniform(lane // 32)
    thread = Thread(lane, warp, make_counters(outputs), make_counters(outputs), make_counters(1))
    for slot in cutlass.range_constexpr(outputs):
        context.barriers["pv_ready"].arrive_as_warp(slot)

    done = Int32(0)
    tile = first_tile(context)
    while tile < context.scheduler.tiles():
        work = packed_tile(context, tile)
        _hear_of_first_blocks(context, thread, done, work.visits)
        for i in cutlass.range(outputs, work.visits, unroll=1):
            _correct(context, thread, done + i)
        _finish(context, thread, work, done)
        done = done + work.visits
        tile = next_tile(context, tile)
