"""Online softmax in base 2 over the rows of an accumulator.

With c = softmax_scale * log2(e), the running state of a row is its maximum m (of raw
scores) and this thread's share of l = sum_j exp2(c * (s_j - m)). A block of scores S
becomes P = exp2(c * (S - m)), and what was accumulated before is scaled by
exp2(c * (m_old - m)).

Conditional rescale (FlashAttention-4): the maximum moves only when that scale would fall
below 2^-RESCALE_THRESHOLD. P then stays below 2^RESCALE_THRESHOLD, far from overflow in
bfloat16 and, at 2^8, in float16; and most blocks leave the accumulator untouched.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32

from jax_fa4.kernels.toolkit.accumulators import (
    ROWS_PER_THREAD,
    max_over_row,
    rows_view,
    sum_over_row,
)

# NOTES: products and sums are fused by hand. Left to the assembler, they would be fused
# where it likes, and the same PTX could round differently elsewhere.
fma = cute.math.fma

RESCALE_THRESHOLD = 8.0
_LN_2 = 0.6931471805599453


def make_row_state() -> tuple[cute.Tensor, cute.Tensor]:
    """Registers for (row_max, row_sum) of this thread's rows, set by `reset`."""
    return (
        cute.make_rmem_tensor(cute.make_layout(ROWS_PER_THREAD), Float32),
        cute.make_rmem_tensor(cute.make_layout(ROWS_PER_THREAD), Float32),
    )


@cute.jit
def reset(row_max: cute.Tensor, row_sum: cute.Tensor) -> None:
    """Nothing seen yet: maximum -inf, sum 0."""
    row_max.fill(-Float32.inf)
    row_sum.fill(0.0)


@cute.jit
def step(
    acc: cute.Tensor,
    row_max: cute.Tensor,
    row_sum: cute.Tensor,
    rescale: cute.Tensor,
    scale_log2: Float32,
) -> None:
    """Turn scores into P in place, advance the rows, write each row's scale to `rescale`."""
    scores = rows_view(acc)
    columns = cute.size(scores, mode=[1])
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        # Four chains instead of one, so that the maxima overlap.
        partial = [scores[r, c] for c in range(4)]
        for c in cutlass.range_constexpr(4, columns):
            partial[c % 4] = cute.arch.fmax(partial[c % 4], scores[r, c])
        block_max = cute.arch.fmax(
            cute.arch.fmax(partial[0], partial[1]), cute.arch.fmax(partial[2], partial[3])
        )
        old = row_max[r]
        new = cute.arch.fmax(old, max_over_row(block_max))
        # False for -inf - -inf, so that a row that has seen nothing takes the new maximum.
        new = old if (new - old) * scale_log2 <= RESCALE_THRESHOLD else new
        row_max[r] = new
        # A row that has seen nothing keeps P = 0 instead of exp2(-inf + inf).
        shift = Float32(0.0) if new == -Float32.inf else -new * scale_log2
        scale = cute.math.exp2(fma(old, scale_log2, shift), fastmath=True)
        rescale[r] = scale
        sums = [Float32(0.0)] * 4
        for c in cutlass.range_constexpr(columns):
            p = cute.math.exp2(fma(scores[r, c], scale_log2, shift), fastmath=True)
            scores[r, c] = p
            sums[c % 4] = sums[c % 4] + p
        row_sum[r] = fma(row_sum[r], scale, (sums[0] + sums[1]) + (sums[2] + sums[3]))


@cute.jit
def rescale_accumulator(acc: cute.Tensor, rescale: cute.Tensor) -> None:
    """Scale the rows of `acc`, if any row of this warp asks for it."""
    needed = Boolean(rescale[0] < 1.0) | Boolean(rescale[1] < 1.0)
    if cute.arch.vote_any_sync(needed):
        rows = rows_view(acc)
        for r in cutlass.range_constexpr(ROWS_PER_THREAD):
            for c in cutlass.range_constexpr(cute.size(rows, mode=[1])):
                rows[r, c] = rows[r, c] * rescale[r]


@cute.jit
def finish(
    acc: cute.Tensor,
    row_max: cute.Tensor,
    row_sum: cute.Tensor,
    scale_log2: Float32,
) -> None:
    """Divide `acc` by the rows' sums and leave lse = log(sum_j exp(scale * s_j)) in `row_max`.

    A row that has seen nothing gets 0 and -inf, whatever V holds.
    """
    rows = rows_view(acc)
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        total = sum_over_row(row_sum[r])
        inverse = cute.arch.rcp_approx(total)
        log2_total = cute.math.log2(total, fastmath=True)
        lse = fma(row_max[r], scale_log2, log2_total) * _LN_2
        # Not `total > 0`: a NaN must stay one.
        unseen = total == 0.0
        for c in cutlass.range_constexpr(cute.size(rows, mode=[1])):
            rows[r, c] = Float32(0.0) if unseen else rows[r, c] * inverse
        row_max[r] = -Float32.inf if unseen else lse
