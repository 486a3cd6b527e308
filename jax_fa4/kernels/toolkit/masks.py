"""Masks on a row of scores."""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, max


@cute.jit
def interval_word(low: Int32 | None, high: Int32) -> Uint32:
    """A word with the bits low .. 31 - high set; the numbers may be negative, or 32 and more."""
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
        word = interval_word(low, first + 31 - end)
        for c in cutlass.range_constexpr(32):
            visible = (word & Uint32(1 << c)) != 0
            scores[first + c] = scores[first + c] if visible else -Float32.inf


@cute.jit
def mask_row_by_words(scores: cute.Tensor, words: cute.Tensor) -> None:
    """Set to -inf the scores whose bits are not set in `words`, 32 columns each."""
    for first in cutlass.range_constexpr(0, cute.size(scores), 32):
        word = words[first // 32]
        for c in cutlass.range_constexpr(32):
            visible = (word & Uint32(1 << c)) != 0
            scores[first + c] = scores[first + c] if visible else -Float32.inf
