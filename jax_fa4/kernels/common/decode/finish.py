"""The end of a decoding CTA: its four warps' sums become one, and go to memory."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, min

from jax_fa4.kernels.common.decode.config import ROWS, WARPS
from jax_fa4.kernels.toolkit.forward_arrays import LN_2, LOG2_E

_COLUMNS = 2  # of a lane and step


@cute.jit
def run(context, arrays, own, split: Int32, used: Int32) -> None:
    """Merge (O, maxima, sums) of the teams; write the result, or this part's share of it."""
    sums, peaks, totals = own
    team, q = context.team, context.queries
    if team.size > 1:
        cute.arch.sync_threads()  # others of the team may still read where this warp's sums go
    _give(context, sums, peaks, totals)
    cute.arch.sync_threads()
    rows = ROWS // WARPS * team.size
    for i in cutlass.range(rows, unroll=1):
        place = context.warp * rows + i
        row = q.row(place)
        if row < q.rows:
            # Who has sums of the row: one warp of each team, all in the order of the teams.
            within, member = place % ROWS, place // ROWS
            there = [Int32(n) < team.count for n in range(WARPS)]
            owners = [min(Int32(n), team.count - 1) * team.size + member for n in range(WARPS)]
            shares = (within, owners, there)
            weights, peak, total = _weigh(context, shares)
            if used > 1:
                _write_part(context, arrays, split, row, shares, weights, peak, total)
            else:
                _write_result(context, arrays, row, shares, weights, peak, total)


def _floats(pointer, offset, count: int) -> cute.Tensor:
    return cute.make_tensor(pointer + offset, cute.make_layout(count))


def _row_sums(context, warp, row):
    """Where a warp's O of a row lies: in its share of the ring, which its team has read."""
    c = context.config
    ring = cute.recast_ptr(context.ring_k, dtype=Float32)
    return ring + (warp * (c.stages * c.key_bytes // 4) + row * c.sum_columns)


@cute.jit
def _give(context, sums: cute.Tensor, peaks: cute.Tensor, totals: cute.Tensor) -> None:
    lane, warp = context.lane, context.warp
    for half in cutlass.range_constexpr(2):
        row = lane // 4 + 8 * half
        total = cute.arch.warp_reduction_sum(totals[half], threads_in_group=4)
        target = _row_sums(context, warp, row)
        for n in cutlass.range_constexpr(cute.size(sums) // 4):
            pair = cute.make_rmem_tensor(2, Float32)
            pair[0], pair[1] = sums[4 * n + 2 * half], sums[4 * n + 2 * half + 1]
            place = target + cute.assume(8 * n + 2 * (lane % 4), divby=2)
            cute.autovec_copy(pair, cute.make_tensor(place, cute.make_layout(2)))
        row_peak = _floats(context.peaks, warp * ROWS + row, 1)
        row_total = _floats(context.totals, warp * ROWS + row, 1)
        if lane % 4 == 0:
            row_peak[0] = peaks[half]
            row_total[0] = total


@cute.jit
def _weigh(context, shares):
    """What each team's O of a row counts, and the row's maximum and sum, in base 2."""
    within, owners, there = shares
    peaks = [_floats(context.peaks, w * ROWS + within, 1)[0] for w in owners]
    totals = [_floats(context.totals, w * ROWS + within, 1)[0] for w in owners]
    for n in cutlass.range_constexpr(1, WARPS):
        peaks[n] = peaks[n] if there[n] else -Float32.inf
    peak = peaks[0]
    for w in cutlass.range_constexpr(1, WARPS):
        peak = cute.arch.fmax(peak, peaks[w])
    base = Float32(0.0) if peak == -Float32.inf else peak
    weights = [cute.math.exp2(peaks[w] - base, fastmath=True) for w in range(WARPS)]
    total = Float32(0.0)
    for w in cutlass.range_constexpr(WARPS):
        total = total + totals[w] * weights[w]
    return weights, peak, total


@cute.jit
def _merged(context, shares, weights, column: Int32):
    """Two columns of the row's O, from all teams."""
    within, owners, there = shares
    low, high = Float32(0.0), Float32(0.0)
    for n in cutlass.range_constexpr(WARPS):
        source = _floats(_row_sums(context, owners[n], within), column, _COLUMNS)
        low = low + source[0] * weights[n] if there[n] else low
        high = high + source[1] * weights[n] if there[n] else high
    return low, high


@cute.jit
def _write_part(context, arrays, split, row, shares, weights, peak, total) -> None:
    """This part's own softmax: out and lse in natural units, -inf where it saw nothing."""
    c, q = context.config, context.queries
    line = Int64(split) * arrays.batch * q.heads_q * q.seqlen_q + q.lse_place(row)
    factor = Float32(0.0) if total == 0.0 else Float32(1.0) / total
    for step in cutlass.range_constexpr(c.head_dim_v // (32 * _COLUMNS)):
        column = (step * 32 + context.lane) * _COLUMNS
        if column < arrays.head_dim_v:
            low, high = _merged(context, shares, weights, column)
            target = _floats(arrays.out_partial, line * arrays.head_dim_v + column, _COLUMNS)
            target[0], target[1] = low * factor, high * factor
    target_lse = _floats(arrays.lse_partial, line, 1)
    if context.lane == 0:
        lse = -Float32.inf
        if total != 0.0:
            lse = (peak + cute.math.log2(total, fastmath=True)) * LN_2
        target_lse[0] = lse


@cute.jit
def _write_result(context, arrays, row, shares, weights, peak, total) -> None:
    """out and lse of a row whose keys are all here; the sink is one more."""
    c, q = context.config, context.queries
    sink = _floats(arrays.sinks, q.head(row), 1)[0] * LOG2_E
    higher = cute.arch.fmax(peak, sink)
    base = Float32(0.0) if higher == -Float32.inf else higher
    weight = cute.math.exp2(peak - base, fastmath=True)
    total = total * weight + cute.math.exp2(sink - base, fastmath=True)
    factor = Float32(0.0) if total == 0.0 else weight / total
    for step in cutlass.range_constexpr(c.head_dim_v // (32 * _COLUMNS)):
        column = (step * 32 + context.lane) * _COLUMNS
        if column < arrays.head_dim_v:
            low, high = _merged(context, shares, weights, column)
            target = _floats(arrays.out, q.token(row) * arrays.head_dim_v + column, _COLUMNS)
            target[0] = (low * factor).to(context.dtype)
            target[1] = (high * factor).to(context.dtype)
    target_lse = _floats(arrays.lse, q.lse_place(row), 1)
    if context.lane == 0:
        lse = -Float32.inf
        if total != 0.0:
            lse = (base + cute.math.log2(total, fastmath=True)) * LN_2
        target_lse[0] = lse
