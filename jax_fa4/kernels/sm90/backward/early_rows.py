"""Log-sum-exps and deltas that a consumer reads from shared memory before it waits.

Beside products a load takes some 200 cycles, and the exponentials cannot begin without. Where
registers are short, those of the first queries are read ahead, and the others meanwhile.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32

from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, rows_view

# Assembly, since ptxas moves other loads to where their values are used.
_LOAD_TWO = "ld.shared.v2.f32 { {$w0}, {$w1} }, [{$r0}];"


@cute.jit
def load(context, source, stage, thread):
    """What `early_groups` groups of eight queries have in a stage, as the accumulator has them."""
    groups, tile_m = context.config.early_groups, context.config.tile_m
    rows = cute.make_rmem_tensor(2 * groups, Float32)
    for group in cutlass.range_constexpr(groups):
        place = source.iterator + (stage * tile_m + 8 * group + thread.column)
        rows[2 * group], rows[2 * group + 1] = cute.arch.inline_ptx(
            _LOAD_TWO, write_only_types=[Float32, Float32], read_only_args=[place.toint()]
        )
    return rows


def at(early, source, column: int, place):
    """The number of this thread's column, of those read early, or at `place` of `source`."""
    if early is not None and column < cute.size(early):
        return early[column]
    return source[place]


def load_if_any(context, source, stage, thread):
    """The numbers of the first queries, where some are read ahead."""
    if context.config.early_groups == 0:
        return None
    return load(context, source, stage, thread)


@cute.jit
def exponentials(context, acc, stage, thread, early=None):
    """acc = 2^(acc * scale - lse) with a log-sum-exp a query, that is a column."""
    lse = context.shared.sLSE
    scale = context.scale_log2
    scores = rows_view(acc)
    for group in cutlass.range_constexpr(context.config.tile_m // 8):
        for pair in cutlass.range_constexpr(2):
            c = 2 * group + pair
            place = stage * context.config.tile_m + 8 * group + thread.column + pair
            bias = at(early, lse, c, place)
            for r in cutlass.range_constexpr(ROWS_PER_THREAD):
                scores[r, c] = cute.math.exp2(scores[r, c] * scale - bias, fastmath=True)


@cute.jit
def score_gradients(context, acc_P, acc_dP, stage, thread, early=None):
    """acc_dP = P (dP - delta)."""
    deltas = context.shared.sDelta
    scores, gradients = rows_view(acc_P), rows_view(acc_dP)
    for group in cutlass.range_constexpr(context.config.tile_m // 8):
        for pair in cutlass.range_constexpr(2):
            c = 2 * group + pair
            place = stage * context.config.tile_m + 8 * group + thread.column + pair
            delta = at(early, deltas, c, place)
            for r in cutlass.range_constexpr(ROWS_PER_THREAD):
                p = scores[r, c].to(Float32)
                gradients[r, c] = p * (gradients[r, c] - delta)
