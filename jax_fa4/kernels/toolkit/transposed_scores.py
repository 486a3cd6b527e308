"""Scores of the backward, transposed: rows of the accumulator are keys, its columns queries.

So a query's log-sum-exp and delta belong to a column, and come from shared memory.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, min

from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, rows_view


def _columns(scores: cute.Tensor) -> int:
    """Of the whole tile; a thread has two of eight."""
    return cute.size(scores, mode=[1]) * 4


@cute.jit
def load_rows(source, acc, thread):
    """A float for each column of this thread, of those at `source`, one a column of the tile.

    NOTES: to be called while the product runs: a load may take as long as the exponentials.
    """
    columns = cute.make_rmem_tensor(cute.size(rows_view(acc), mode=[1]), Float32)
    for c in cutlass.range_constexpr(cute.size(columns)):
        columns[c] = source[8 * (c // 2) + thread.column + c % 2]
    return columns


@cute.jit
def probabilities(acc, lse_log2, scale_log2):
    """acc = 2^(acc * scale_log2 - lse_log2), the latter as `load_rows` has it."""
    scores = rows_view(acc)
    for c in cutlass.range_constexpr(cute.size(scores, mode=[1])):
        for r in cutlass.range_constexpr(ROWS_PER_THREAD):
            scores[r, c] = cute.math.exp2(scores[r, c] * scale_log2 - lse_log2[c], fastmath=True)


@cute.jit
def hide(acc, band, row, key, thread):
    """Set to 0 the probabilities of keys that the band hides.

    `row` and `key` are the positions of the tile's first query and first key.
    """
    scores = rows_view(acc)
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        j = key + thread.row + 8 * r
        # Bounds of the queries that see key j, relative to this thread's first column.
        begin = j - band.upper - row - thread.column
        end = min(j - band.lower, row + _columns(scores)) - row - thread.column
        end = -1 if j >= band.seqlen_k else end
        for c in cutlass.range_constexpr(cute.size(scores, mode=[1])):
            column = c % 2 + 8 * (c // 2)
            hidden = (begin > column) | (end < column)
            scores[r, c] = Float32(0.0) if hidden else scores[r, c]


@cute.jit
def score_gradients(acc_P, acc_dP, deltas):
    """acc_dP = P (dP - delta), with a delta a column, as `load_rows` has them."""
    probabilities, gradients = rows_view(acc_P), rows_view(acc_dP)
    for c in cutlass.range_constexpr(cute.size(gradients, mode=[1])):
        for r in cutlass.range_constexpr(ROWS_PER_THREAD):
            p = probabilities[r, c].to(Float32)
            gradients[r, c] = p * (gradients[r, c] - deltas[c])
