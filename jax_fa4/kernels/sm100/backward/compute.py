"""A compute warpgroup: thread i owns key i, and half h of a tile's queries.

CONTRACT: for every visit it takes its half of S^T at s_full, leaves P^T in tensor memory and
arrives at p_ready; then its half of dP^T at dp_full, leaves dS^T in tensor memory and dS in
shared memory, and arrives at ds_ready and stats_empty. At the end it writes its half of the
columns of dV and dK: see `store`.

    P  = exp2(scale log2(e) S - lse log2(e))      0 where the band hides the key
    dS = P (dP - delta)                           the scale comes at the end, to dK and to dQ

A query that sees nothing, or is past the end, has an lse of +inf: P is 0 with no mask.

sdS is free for the next visit when dQ, which reads it, is over: that product comes before dP^T,
so that dp_full says it, but where dQ has columns of its own: there dq_full does.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, min

from jax_fa4.kernels.sm100.backward.bounded import mask_by_words, visible
from jax_fa4.kernels.sm100.backward.config import HALF, Q_STAGES, TILE
from jax_fa4.kernels.sm100.backward.roles import cuts_something, next_visit, work_of
from jax_fa4.kernels.sm100.backward.softcap import cap_with_slopes, hide_by_word, multiply
from jax_fa4.kernels.sm100.backward.store import store_gradients
from jax_fa4.kernels.toolkit import swizzled_rows, tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert
from jax_fa4.kernels.toolkit.masks import mask_row_outside
from jax_fa4.kernels.toolkit.mbarriers import (
    Ring,
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)

_LOAD = 32  # columns that one instruction loads
_CAPPED = 16  # columns at a time under a softcap, which needs registers of its own


@dataclass(frozen=True)
class Row:
    """This thread's key, and how far its warp is; registers where a tensor."""

    half: Int32
    thread: Int32  # of the warpgroup: the key in its block, the lane of tensor memory
    lane: Int32  # the warp's first
    scores: cute.Pointer  # its half of S^T in tensor memory
    dscores: cute.Pointer  # of dP^T
    stats: Ring
    s_full: cute.Tensor
    dp_full: cute.Tensor
    dq_full: cute.Tensor


def _make_row(context, half: Int32) -> Row:
    thread = cute.arch.thread_idx()[0] % TILE
    columns = context.config.tensor_memory
    return Row(
        half=half,
        thread=thread,
        lane=32 * cute.arch.make_warp_uniform(thread // 32),
        scores=context.tmem + columns.scores + half * HALF,
        dscores=context.tmem + columns.dscores + half * HALF,
        stats=make_ring(Q_STAGES),
        s_full=make_counters(1),
        dp_full=make_counters(1),
        dq_full=make_counters(1),
    )


def _statistics(context, row: Row, which: int, first: int, count: int) -> cute.Tensor:
    """lse_log2 (0) or delta (1) of `count` queries of this half, in registers."""
    base = context.shared.sStats.iterator
    offset = row.stats.stage * (2 * TILE) + which * TILE + row.half * HALF + first
    source = base + cute.assume(offset, divby=4)
    values = cute.make_rmem_tensor(count, Float32)
    for c in range(0, count, 4):
        target = cute.make_tensor(values.iterator + c, cute.make_layout(4))
        cute.autovec_copy(cute.make_tensor(source + c, cute.make_layout(4)), target)
    return values


def _part(tensor: cute.Tensor, first: int, count: int) -> cute.Tensor:
    return cute.make_tensor(tensor.iterator + first, cute.make_layout(count))


def _cells(rounded: cute.Tensor) -> cute.Tensor:
    """Elements of 16 bits as cells of tensor memory."""
    count = cute.size(rounded) // 2
    return cute.make_tensor(
        cute.recast_ptr(rounded.iterator, dtype=Float32), cute.make_layout(count)
    )


@cute.jit
def _mask(context, row: Row, scores: cute.Tensor, work, block: Int32) -> None:
    """Hide the queries that do not see this thread's key."""
    band, query = context.band, block * TILE + row.half * HALF
    if cuts_something(band, work.key, block * TILE):
        key = work.key + row.thread
        end = min(key, band.seqlen_k - 1) - band.lower - query
        # A key past the end has scores of 0, whose exponential may be infinite.
        end = end if key < band.seqlen_k else Int32(-1)
        mask_row_outside(scores, key - band.upper - query, end)


@cute.jit
def _probabilities(context, row: Row, work, block: Int32) -> cute.Tensor:
    """This thread's half row of P^T, rounded in tensor memory, and in registers.

    There with the slope of a softcap, by which dS differs.
    """
    barriers = context.barriers
    words, is_whole = None, None
    if cutlass.const_expr(context.config.bounded):
        words, is_whole = visible(context, row, work, block)
    wait_stage(barriers["stats_full"], row.stats)
    wait_next(barriers["s_full"], row.s_full, 0)
    tensor_memory.fence_after_sync()
    scores = cute.make_rmem_tensor(HALF, Float32)
    for first in cutlass.range_constexpr(0, HALF, _LOAD):
        tensor_memory.load(row.scores + first, _part(scores, first, _LOAD), row.lane)
    tensor_memory.wait_loads()
    if cutlass.const_expr(not context.config.bounded):
        _mask(context, row, scores, work, block)
    if cutlass.const_expr(context.config.bounded and not context.config.softcap):
        mask_by_words(scores, words, is_whole)
    columns = _CAPPED if context.config.softcap else _LOAD
    scale = (-context.scale_log2, -context.scale_log2)
    for first in cutlass.range_constexpr(0, HALF, columns):
        lse = _statistics(context, row, 0, first, columns)
        slopes = None
        if cutlass.const_expr(context.config.softcap):
            slopes = cap_with_slopes(_part(scores, first, columns), context.slope)
        for c in cutlass.range_constexpr(0, columns, 2):
            pair = (scores[first + c], scores[first + c + 1])
            # Of the other sign, since there is no packed negation of lse.
            a, b = cute.arch.fma_packed_f32x2(pair, scale, (lse[c], lse[c + 1]))
            scores[first + c] = cute.math.exp2(-a, fastmath=True)
            scores[first + c + 1] = cute.math.exp2(-b, fastmath=True)
        if cutlass.const_expr(context.config.softcap):
            # Of P, not of scores: these are finite, and so are the slopes.
            hide_by_word(_part(scores, first, columns), words[first // 32], first % 32)
        rounded = cute.make_rmem_tensor(columns, context.dtype)
        convert(_part(scores, first, columns), rounded)
        tensor_memory.store(_cells(rounded), row.scores + first // 2, row.lane)
        if cutlass.const_expr(context.config.softcap):
            multiply(_part(scores, first, columns), slopes)
    tensor_memory.wait_stores()
    tensor_memory.fence_before_sync()
    barriers["p_ready"].arrive_as_warp(0)
    return scores


@cute.jit
def _dscores(context, row: Row, probabilities: cute.Tensor) -> None:
    """This thread's half row of dS^T to tensor memory, and to shared memory for dQ."""
    barriers = context.barriers
    wait_next(barriers["dp_full"], row.dp_full, 0)
    tensor_memory.fence_after_sync()
    tile = context.shared.dscores + row.half * (TILE * HALF)
    if cutlass.const_expr(context.config.tensor_memory.dq_apart):
        # The dQ before, which reads sdS. On a new barrier this returns at once.
        wait_next(barriers["dq_full"], row.dq_full, 0, producer=True)
    for first in cutlass.range_constexpr(0, HALF, _LOAD):
        values = cute.make_rmem_tensor(_LOAD, Float32)
        tensor_memory.load(row.dscores + first, values, row.lane)
        delta = _statistics(context, row, 1, first, _LOAD)
        tensor_memory.wait_loads()
        for c in cutlass.range_constexpr(0, _LOAD, 2):
            p = (probabilities[first + c], probabilities[first + c + 1])
            dp = cute.arch.sub_packed_f32x2((values[c], values[c + 1]), (delta[c], delta[c + 1]))
            values[c], values[c + 1] = cute.arch.mul_packed_f32x2(p, dp)
        rounded = cute.make_rmem_tensor(_LOAD, context.dtype)
        convert(values, rounded)
        tensor_memory.store(_cells(rounded), row.dscores + first // 2, row.lane)
        swizzled_rows.store_columns(rounded, tile, TILE, row.thread, first, HALF)
    tensor_memory.wait_stores()
    tensor_memory.fence_before_sync()
    # For dQ, which reads sdS, and for the next bulk copy over what was read here.
    cute.arch.fence_view_async_shared()
    barriers["ds_ready"].arrive_as_warp(0)
    barriers["stats_empty"].arrive_as_warp(row.stats.stage)
    advance(row.stats)


@cute.jit
def run(context, half: Int32) -> None:
    """As compute `half`; see the contract above."""
    row, work = _make_row(context, half), work_of(context)
    head, block = work.head_kv * context.ratio, work.first
    for _ in cutlass.range(work.visits, unroll=1):
        probabilities = _probabilities(context, row, work, block)
        _dscores(context, row, probabilities)
        head, block = next_visit(work, head, block)
    store_gradients(context, work, row.half, row.thread, row.lane)
