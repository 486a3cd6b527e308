"""A compute warpgroup: thread i has own row i, and half h of the columns of its scores.

CONTRACT: first it puts its half of the own rows that belong there into tensor memory and arrives at
own_ready. For every visit it takes its half of S at s_full, and leaves P and arrives at p_ready
for dV, else arrives at s_read; but for dV alone it takes its half of dP at dp_full, leaves dS and
arrives at ds_ready; where the stream is of queries, it arrives at stats_empty. At the end it stores
its half of the columns of what was made.

    P  = exp2(scale log2(e) S - lse log2(e))      0 where the band hides the key
    dS = P (dP - delta)                           the scale comes at the end, to dK and to dQ

A query that sees nothing, or is past the end, has an lse of +inf: P is 0 with no mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, min

from jax_fa4.kernels.sm100.backward.bounded import mask_by_words
from jax_fa4.kernels.sm100.backward.softcap import cap_with_slopes, hide_by_word, multiply
from jax_fa4.kernels.sm100.backward_wide import bounded, own
from jax_fa4.kernels.sm100.backward_wide.config import HALF, STATS_STAGES, STREAM, TILE, Gradient
from jax_fa4.kernels.sm100.backward_wide.roles import (
    cuts_something,
    line_of,
    next_visit,
    work_of,
)
from jax_fa4.kernels.toolkit import tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert
from jax_fa4.kernels.toolkit.exponential import exp2_by_polynomial
from jax_fa4.kernels.toolkit.masks import mask_row_outside
from jax_fa4.kernels.toolkit.mbarriers import (
    Ring,
    advance,
    make_counters,
    make_ring,
    wait_next,
    wait_stage,
)

_WARP = 32
# Of sixteen columns, the first of each pair whose exponentials are polynomials, where dV waits for
# them. Modelled cycles of a visit: without 1738, with one pair of four 1670, so 1623, half 1625.
_BY_POLYNOMIAL = (4, 10, 14)


@dataclass(frozen=True)
class Row:
    """This thread's own row, and how far its warp is; registers where a tensor."""

    half: Int32
    thread: Int32  # of the warpgroup: the row in its tile, the lane of tensor memory
    lane: Int32  # the warp's first
    stats: Ring
    scores: Ring  # stages of S
    dp_full: cute.Tensor
    lse: Float32  # of the own row, where it is a query
    delta: Float32

    @property
    def place(self) -> tuple[Int32, Int32]:
        return self.half, self.lane


def _make_row(context, work, gradient: Gradient, half: Int32) -> Row:
    thread = cute.arch.thread_idx()[0] % TILE
    lse = delta = Float32(0.0)
    if not gradient.of_keys:
        at = line_of(context, work.batch, work.head) + work.row + thread
        lse, delta = (
            cute.make_tensor(array + at, cute.make_layout(1))[0]
            for array in (context.gmem.lse_log2, context.gmem.delta)
        )
    return Row(
        half=half,
        thread=thread,
        lane=_WARP * cute.arch.make_warp_uniform(thread // _WARP),
        stats=make_ring(STATS_STAGES),
        scores=make_ring(2 if gradient is Gradient.DV else 1),
        dp_full=make_counters(1),
        lse=lse,
        delta=delta,
    )


@cute.jit
def _fetch_own(context, work, row: Row, gradient: cutlass.Constexpr) -> None:
    """Own rows as operands, in tensor memory."""
    gmem, config, keys = context.gmem, context.config, gradient.of_keys
    columns = config.tensor_memory(gradient)
    length = context.band.seqlen_k if keys else context.band.seqlen_q
    heads = context.of_keys.heads if keys else context.of_queries.heads
    number = work.row + row.thread
    exists = number < length
    operands = []
    if cutlass.const_expr(columns.holds_first):
        array = gmem.k_rows if keys else gmem.q_rows
        operands.append((array, context.head_dim, config.head_dim, columns.first))
    if cutlass.const_expr(columns.holds_second):
        array = gmem.v_rows if keys else gmem.do_rows
        operands.append((array, context.head_dim_v, config.head_dim_v, columns.second))
    for array, head_dim, width, column in operands:
        offset = own.offset_of(work, number, length, heads, head_dim)
        source = array + cute.assume(offset, divby=8)
        own.fetch(context, source, exists, head_dim, width, column, row.place)
    tensor_memory.wait_stores()
    tensor_memory.fence_before_sync()
    context.barriers["own_ready"].arrive_as_warp(0)


def _statistics(context, row: Row, which: int) -> cute.Tensor:
    """lse_log2 (0) or delta (1) of this half of the stream's queries, in registers."""
    base = context.shared.stats.iterator
    offset = row.stats.stage * (2 * STREAM) + which * STREAM + row.half * HALF
    source = base + cute.assume(offset, divby=4)
    values = cute.make_rmem_tensor(HALF, Float32)
    for c in range(0, HALF, 4):
        target = cute.make_tensor(values.iterator + c, cute.make_layout(4))
        cute.autovec_copy(cute.make_tensor(source + c, cute.make_layout(4)), target)
    return values


def _cells(rounded: cute.Tensor) -> cute.Tensor:
    """Elements of 16 bits as cells of tensor memory."""
    count = cute.size(rounded) // 2
    return cute.make_tensor(
        cute.recast_ptr(rounded.iterator, dtype=Float32), cute.make_layout(count)
    )


@cute.jit
def _mask(context, row: Row, scores: cute.Tensor, work, gradient: cutlass.Constexpr, block) -> None:
    """Hide what of the stream this thread's key is not seen by, or this thread's query not sees."""
    band, streamed = context.band, block * STREAM
    if cuts_something(band, gradient, work.row, streamed):
        number, base = work.row + row.thread, streamed + row.half * HALF
        if cutlass.const_expr(gradient.of_keys):
            begin = number - band.upper - base
            end = min(number, band.seqlen_k - 1) - band.lower - base
            # A key past the end has scores of 0, whose exponential may be infinite.
            end = end if number < band.seqlen_k else Int32(-1)
        else:
            begin = number + band.lower - base
            end = min(number + band.upper, band.seqlen_k - 1) - base
        mask_row_outside(scores, begin, end)


@cute.jit
def _probabilities(context, row: Row, work, gradient: cutlass.Constexpr, block) -> cute.Tensor:
    """This thread's half row of P, in registers."""
    barriers, stage = context.barriers, row.scores.stage
    words, is_whole = None, None
    if cutlass.const_expr(context.config.bounded):
        words, is_whole = bounded.visible(context, row, work, gradient, block)
    if cutlass.const_expr(gradient.of_keys):
        wait_stage(barriers["stats_full"], row.stats)
    lse = _statistics(context, row, 0) if gradient.of_keys else None
    wait_stage(barriers["s_full"], row.scores)
    tensor_memory.fence_after_sync()
    scores = cute.make_rmem_tensor(HALF, Float32)
    base = context.tmem + context.config.tensor_memory(gradient).scores + row.half * HALF
    base = base + stage * STREAM if gradient is Gradient.DV else base
    tensor_memory.load(base, scores, row.lane)
    tensor_memory.wait_loads()
    if cutlass.const_expr(not gradient.takes_p):
        tensor_memory.fence_before_sync()
        barriers["s_read"].arrive_as_warp(0)
    slopes = None
    if cutlass.const_expr(not context.config.bounded):
        _mask(context, row, scores, work, gradient, block)
    elif cutlass.const_expr(context.config.softcap):
        slopes = cap_with_slopes(scores, context.slope)
    else:
        mask_by_words(scores, words, is_whole)
    scale = (-context.scale_log2, -context.scale_log2)
    for c in cutlass.range_constexpr(0, HALF, 2):
        pair = (scores[c], scores[c + 1])
        of_pair = (lse[c], lse[c + 1]) if gradient.of_keys else (row.lse, row.lse)
        # Of the other sign, since there is no packed negation of lse.
        a, b = cute.arch.fma_packed_f32x2(pair, scale, of_pair)
        if cutlass.const_expr(gradient is Gradient.DK_DV and c % 16 in _BY_POLYNOMIAL):
            scores[c], scores[c + 1] = -a, -b
            exp2_by_polynomial(scores, c)
        else:
            scores[c] = cute.math.exp2(-a, fastmath=True)
            scores[c + 1] = cute.math.exp2(-b, fastmath=True)
    if cutlass.const_expr(context.config.softcap):
        # Of P, not of scores: these are finite, and so are the slopes.
        hide_by_word(scores, words[0], 0)
    if cutlass.const_expr(gradient.takes_p):
        _leave(context, row, scores, base)
        barriers["p_ready"].arrive_as_warp(stage)
    if cutlass.const_expr(context.config.softcap and gradient.takes_dp):
        multiply(scores, slopes)
    if cutlass.const_expr(not gradient.takes_p):
        _finish(context, row, scores)
    advance(row.scores)
    return scores


@cute.jit
def _finish(context, row: Row, values: cute.Tensor) -> None:
    """Have P now, not behind the wait for dP, to which ptxas puts off what nothing needs before.

    So something of all values goes to shared memory, where nobody reads it.
    """
    words = cute.make_tensor(cute.recast_ptr(values.iterator, dtype=Int32), cute.make_layout(HALF))
    word = words[0]
    for c in cutlass.range_constexpr(1, HALF):
        word = word | words[c]
    context.shared.unread[row.half * TILE + row.thread] = word


@cute.jit
def _leave(context, row: Row, values: cute.Tensor, base: cute.Pointer) -> None:
    """This thread's half row of P or dS, rounded, at `base`."""
    rounded = cute.make_rmem_tensor(HALF, context.dtype)
    convert(values, rounded)
    tensor_memory.store(_cells(rounded), base, row.lane)
    tensor_memory.wait_stores()
    tensor_memory.fence_before_sync()


@cute.jit
def _dscores(context, row: Row, probabilities: cute.Tensor, gradient: cutlass.Constexpr) -> None:
    """This thread's half row of dS."""
    delta = _statistics(context, row, 1) if gradient.of_keys else None
    wait_next(context.barriers["dp_full"], row.dp_full, 0)
    tensor_memory.fence_after_sync()
    values = cute.make_rmem_tensor(HALF, Float32)
    base = context.tmem + context.config.tensor_memory(gradient).dscores + row.half * HALF
    tensor_memory.load(base, values, row.lane)
    tensor_memory.wait_loads()
    for c in cutlass.range_constexpr(0, HALF, 2):
        p = (probabilities[c], probabilities[c + 1])
        of_pair = (delta[c], delta[c + 1]) if gradient.of_keys else (row.delta, row.delta)
        dp = cute.arch.sub_packed_f32x2((values[c], values[c + 1]), of_pair)
        values[c], values[c + 1] = cute.arch.mul_packed_f32x2(p, dp)
    _leave(context, row, values, base)
    context.barriers["ds_ready"].arrive_as_warp(0)


@cute.jit
def _store_keys(context, work, row: Row, name: cutlass.Constexpr, column) -> None:
    """This thread's half row of dK or dV."""
    gmem, config, number = context.gmem, context.config, work.row + row.thread
    is_k = name == "dk"
    array, scale = (gmem.dk, context.scale) if is_k else (gmem.dv, Float32(1.0))
    width = config.head_dim if is_k else config.head_dim_v
    head_dim = context.head_dim if is_k else context.head_dim_v
    length, heads = context.band.seqlen_k, context.of_keys.heads
    offset = own.offset_of(work, number, length, heads, head_dim)
    target = array + cute.assume(offset, divby=8)
    exists = number < length
    own.store_rounded(context, target, exists, head_dim, width, column, scale, row.place)


@cute.jit
def _store(context, work, row: Row, gradient: cutlass.Constexpr) -> None:
    """This thread's half row of what the CTA made."""
    config, columns = context.config, context.config.tensor_memory(gradient)
    context.barriers["sum_full"].wait(0, 0)
    tensor_memory.fence_after_sync()
    if cutlass.const_expr(not gradient.of_keys):
        tile = line_of(context, work.batch, work.head) + work.row + row.lane
        target = context.gmem.dq_accum + tile * config.head_dim
        own.store_sums(context, target, columns.wide, row.place, row.thread % _WARP)
    else:
        if cutlass.const_expr(gradient.takes_p):
            _store_keys(context, work, row, "dv", columns.dv)
        if cutlass.const_expr(gradient.takes_dp):
            _store_keys(context, work, row, "dk", columns.wide)
    tensor_memory.fence_before_sync()


@cute.jit
def run(context, gradient: cutlass.Constexpr, half: Int32) -> None:
    """As compute `half`; see the contract above."""
    work = work_of(context, gradient)
    row = _make_row(context, work, gradient, half)
    _fetch_own(context, work, row, gradient)
    head, block = work.stream_head, work.first
    for _ in cutlass.range(work.visits, unroll=1):
        probabilities = _probabilities(context, row, work, gradient, block)
        if cutlass.const_expr(gradient.takes_dp):
            _dscores(context, row, probabilities, gradient)
        if cutlass.const_expr(gradient.of_keys):
            cute.arch.fence_view_async_shared()  # for the next bulk copy over what was read here
            context.barriers["stats_empty"].arrive_as_warp(row.stats.stage)
            advance(row.stats)
        head, block = next_visit(work, head, block)
    _store(context, work, row, gradient)
