"""The band's mask on an accumulator of scores, by a bit a column.

Of a row, a thread has columns 0, 1, 8, 9, 16, 17, ... past its first. Visible ones are a run, so
that two shifts make the row's bits, and each score costs one selection by a constant bit.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Uint32, max, min

from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, ThreadCoordinates, rows_view
from jax_fa4.kernels.toolkit.block_range import Band

WORD_BITS = 32


@cute.jit
def columns_before(x: Int32) -> Int32:
    """How many of a thread's columns are below `x`, which may be negative."""
    return 2 * (x >> 3) + min(x & 7, 2)


@cute.jit
def _shifted(operation: cutlass.Constexpr, places: Int32) -> Uint32:
    """All ones, shifted; PTX says what 32 places and more give, where operators do not."""
    return cute.arch.inline_ptx(
        f"{operation} {{$w0}}, 0xffffffff, {{$r0}};",
        write_only_types=[Uint32],
        read_only_args=[max(places, 0)],
    )


@cute.jit
def bits_from_to(begin: Int32, end: Int32) -> Uint32:
    """Bits begin .. end - 1 of a word, of which either may be negative, or past it."""
    return _shifted("shl.b32", begin) & _shifted("shr.u32", WORD_BITS - end)


@cute.jit
def mask_outside_band(
    acc: cute.Tensor, band: Band, row: Int32, key: Int32, thread: ThreadCoordinates
) -> None:
    """Set to -inf the scores of keys that the band hides from their row.

    `row` and `key` are the positions of the tile's first row and first key.
    """
    scores = rows_view(acc)
    columns = cute.size(scores, mode=[1])
    origin = key + thread.column
    for r in cutlass.range_constexpr(ROWS_PER_THREAD):
        i = row + thread.row + 8 * r
        begin = columns_before(max(i + band.lower, 0) - origin)
        end = columns_before(min(i + band.upper + 1, band.seqlen_k) - origin)
        for first in cutlass.range_constexpr(0, columns, WORD_BITS):
            seen = bits_from_to(begin - first, end - first)
            for bit in cutlass.range_constexpr(
                WORD_BITS if columns - first > WORD_BITS else columns - first
            ):
                visible = (seen & Uint32(1 << bit)) != 0
                scores[r, first + bit] = scores[r, first + bit] if visible else -Float32.inf
