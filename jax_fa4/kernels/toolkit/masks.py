"""Masks on an accumulator tile of scores."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, max, min

from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, ThreadCoordinates, rows_view
from jax_fa4.kernels.toolkit.block_range import Band


@cute.jit
def mask_outside_band(
    acc: cute.Tensor, band: Band, row: Int32, key: Int32, thread: ThreadCoordinates
) -> None:
    """Set to -inf the scores of keys that the band hides from their row.

    `row` and `key` are the positions of the tile's first row and first key.
    """
    scores = rows_view(acc)
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        i = row + thread.row + 8 * r
        # Bounds relative to this thread's first column, so that the comparisons below
        # have constants on their left.
        begin = max(i + band.lower, 0) - key - thread.column
        end = min(i + band.upper, band.seqlen_k - 1) - key - thread.column
        for c in cutlass.range_constexpr(cute.size(scores, mode=[1])):
            column = c % 2 + 8 * (c // 2)
            hidden = (begin > column) | (end < column)
            scores[r, c] = -Float32.inf if hidden else scores[r, c]
