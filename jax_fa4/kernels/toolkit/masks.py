"""Masks on an accumulator tile of scores."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, max, min

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


@cute.jit
def _word(low: Int32 | None, high: Int32) -> Uint32:
    """Bits low .. 31 - high; the numbers may be negative, or 32 and more."""
    # The shifts of PTX give 0 for 32 places and more; of Python's operators that is not said.
    word = cute.arch.inline_ptx(
        "shr.u32 {$w0}, 0xffffffff, {$r0};",
        write_only_types=[Uint32],
        read_only_args=[max(high, 0)],
    )
    if cutlass.const_expr(low is not None):
        word = word & cute.arch.inline_ptx(
            "shl.b32 {$w0}, 0xffffffff, {$r0};",
            write_only_types=[Uint32],
            read_only_args=[max(low, 0)],
        )
    return word


@cute.jit
def mask_row_outside(scores: cute.Tensor, begin: Int32 | None, end: Int32) -> None:
    """Set to -inf the scores before number `begin`, if that is given, and past number `end`.

    A bit a column, 32 to a word: selecting by a constant bit of a register is one instruction a
    column, for 7 predicates a move.
    """
    for first in cutlass.range_constexpr(0, cute.size(scores), 32):
        low = None if begin is None else begin - first
        word = _word(low, first + 31 - end)
        for c in cutlass.range_constexpr(32):
            visible = (word & Uint32(1 << c)) != 0
            scores[first + c] = scores[first + c] if visible else -Float32.inf
