"""Rows of dq in global memory, and the float32 sums that they are made of.

A panel of dQ is an accumulator of 64 rows (accumulators.py): the four threads of a quad have two
of every eight columns of two rows. Before a row is written they exchange, so that each has eight
columns of it, 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64, Uint32

from jax_fa4.kernels.toolkit.accumulators import ROWS_PER_THREAD, ThreadCoordinates

_PIECE = 8  # elements of 16 bytes
_QUAD = 4
# NOTES: .relaxed.gpu reads L2, where the additions are; a plain load may find an older L1 line.
_LOAD = "ld.relaxed.gpu.global.v4.f32 { {$w0}, {$w1}, {$w2}, {$w3} }, [{$r0}];"
_STORE = "st.relaxed.gpu.global.v4.f32 [{$r0}], { {$r1}, {$r2}, {$r3}, {$r4} };"
_STORE_WORDS = "st.global.v4.b32 [{$r0}], { {$r1}, {$r2}, {$r3}, {$r4} };"


def load_four(source: cute.Pointer, values: cute.Tensor, first: int) -> None:
    """Four floats that this thread stored or added to, into values[first : first + 4]."""
    four = cute.arch.inline_ptx(
        _LOAD, write_only_types=[Float32] * 4, read_only_args=[source.toint()]
    )
    for i in range(4):
        values[first + i] = four[i]


def store_four(target: cute.Pointer, values: cute.Tensor, first: int) -> None:
    """values[first : first + 4] as the four floats at `target`, which 16 bytes align."""
    four = [values[first + i] for i in range(4)]
    cute.arch.inline_ptx(_STORE, read_only_args=[target.toint(), *four])


@dataclass(frozen=True)
class Rows:
    """Where a thread writes: its piece of columns in its first row of a block of queries."""

    start: cute.Pointer
    row_stride: Int64
    rows_left: Int32  # from this thread's first row on
    columns: Int32  # of a row
    piece: Int32  # of a quad's four


def _block_start(context, head, block):
    """The first row of a block of queries, and the stride of rows."""
    columns = context.head_dim
    row_stride = Int64(context.heads_q) * columns
    row = Int64(context.position.batch) * context.band.seqlen_q + block * context.config.tile_m
    return row * row_stride + Int64(head) * columns, row_stride


def rows_of(context, head, block, thread_index) -> Rows:
    """This thread's part of a block of queries."""
    start, row_stride = _block_start(context, head, block)
    row = ThreadCoordinates.of_thread(thread_index).row
    piece = thread_index % _QUAD
    offset = start + row * row_stride + piece * _PIECE
    rows_left = context.band.seqlen_q - block * context.config.tile_m - row
    pointer = context.dq + cute.assume(offset, divby=_PIECE)
    return Rows(pointer, row_stride, rows_left, context.head_dim, piece)


@cute.jit
def _exchange(words, piece, distance: int):
    """Between threads `distance` apart: one gives its later words of each pair, one its earlier."""
    upper = (piece & distance) != 0
    for i in cutlass.range_constexpr(_QUAD):
        if cutlass.const_expr(i & distance == 0):
            kept = words[i + distance] if upper else words[i]
            given = words[i] if upper else words[i + distance]
            taken = cute.arch.shuffle_sync_bfly(given, offset=distance)
            words[i] = taken if upper else kept
            words[i + distance] = kept if upper else taken


@cute.jit
def write(context, values, rows, panel):
    """A panel's floats of this thread, rounded, into rows that exist."""
    columns = context.config.dq_columns
    for quarter in cutlass.range_constexpr(columns // (_QUAD * _PIECE)):
        column = panel * columns + quarter * _QUAD * _PIECE
        for r in cutlass.range_constexpr(ROWS_PER_THREAD):
            pairs = cute.make_rmem_tensor(2 * _QUAD, context.dtype)
            for g in cutlass.range_constexpr(_QUAD):
                first = 4 * (quarter * _QUAD + g) + 2 * r
                pairs[2 * g] = values[first].to(context.dtype)
                pairs[2 * g + 1] = values[first + 1].to(context.dtype)
            words = cute.make_tensor(
                cute.recast_ptr(pairs.iterator, dtype=Uint32), cute.make_layout(_QUAD)
            )
            _exchange(words, rows.piece, 1)
            _exchange(words, rows.piece, 2)
            exists = (8 * r < rows.rows_left) & (column + rows.piece * _PIECE < rows.columns)
            if exists:
                target = rows.start + cute.assume(8 * r * rows.row_stride + column, divby=_PIECE)
                four = [words[i] for i in range(_QUAD)]
                cute.arch.inline_ptx(_STORE_WORDS, read_only_args=[target.toint(), *four])


@cute.jit
def write_zeros(context, head, block, thread_index):
    """A block of queries of zeros, by the whole warpgroup."""
    config = context.config
    start, row_stride = _block_start(context, head, block)
    pieces = config.head_dim // _PIECE
    zero = Uint32(0)
    for number in cutlass.range(thread_index, config.tile_m * pieces, 128, unroll=1):
        row, column = number // pieces, number % pieces * _PIECE
        exists = (block * config.tile_m + row < context.band.seqlen_q) & (column < context.head_dim)
        if exists:
            offset = start + row * row_stride + column
            target = context.dq + cute.assume(offset, divby=_PIECE)
            cute.arch.inline_ptx(_STORE_WORDS, read_only_args=[target.toint(), *[zero] * 4])
