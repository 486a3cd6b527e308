"""Views of a warpgroup's WGMMA accumulator and of the operands made from it.

A 64xN float32 accumulator gives each thread two rows (r and r + 8 of its warp's 16)
and, in each group of eight columns, two neighbours. Its layout is ((2, 2, N/8), 1, 1):
(column pair, row, column group), in the order in which PTX numbers the registers
(PTX ISA, "Register Fragments for wgmma.mma_async.m64nNk16", matrix D).
"""

from __future__ import annotations

from dataclasses import dataclass

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

ROWS_PER_THREAD = 2
_THREADS_PER_ROW = 4


def rows_view(acc: cute.Tensor) -> cute.Tensor:
    """The accumulator as (rows, columns) of this thread."""
    pair, row, group = acc.layout[0].shape
    s_pair, s_row, s_group = acc.layout[0].stride
    layout = cute.make_layout((row, (pair, group)), stride=(s_row, (s_pair, s_group)))
    return cute.make_tensor(acc.iterator, layout)


def make_a_operand(acc: cute.Tensor, dtype: type[cutlass.Numeric]) -> cute.Tensor:
    """An empty register operand A of 16-bit `dtype` for the columns of `acc` as depth.

    The registers of a 64xN accumulator, packed in pairs and in order, are those of
    operand A of N/16 products of depth 16: ((2, 2, 2), 1, N/16).
    """
    groups = acc.layout[0].shape[2]
    layout = cute.make_layout(((2, 2, 2), 1, groups // 2), stride=((1, 2, 4), 0, 8))
    return cute.make_rmem_tensor(layout, dtype)


@cute.jit
def convert(source: cute.Tensor, target: cute.Tensor) -> None:
    """Round `source` (float32) into `target`, register by register."""
    flat_source = cute.make_tensor(source.iterator, cute.make_layout(cute.size(source)))
    flat_target = cute.make_tensor(target.iterator, cute.make_layout(cute.size(source)))
    # NOTES: converting eight at a time keeps the packed cvt.rn.{bf16x2,f16x2}; one
    # conversion of the whole vector is scalarised for some sizes.
    for i in cutlass.range_constexpr(0, cute.size(source), 8):
        chunk_source = cute.make_tensor(flat_source.iterator + i, cute.make_layout(8))
        chunk_target = cute.make_tensor(flat_target.iterator + i, cute.make_layout(8))
        chunk_target.store(chunk_source.load().to(target.element_type))


@dataclass(frozen=True)
class ThreadCoordinates:
    """Where this thread's accumulator elements lie in its warpgroup's 64xN tile."""

    row: Int32  # the first of two rows; the second is 8 below
    column: Int32  # of element (0, 0); element (pair, group) is `pair + 8 * group` further

    @staticmethod
    def of_thread(thread_in_warpgroup: Int32) -> ThreadCoordinates:
        warp = thread_in_warpgroup // 32
        lane = thread_in_warpgroup % 32
        return ThreadCoordinates(
            row=warp * 16 + lane // _THREADS_PER_ROW, column=(lane % _THREADS_PER_ROW) * 2
        )


@cute.jit
def max_over_row(value: Float32) -> Float32:
    """Maximum over the four threads that share a row."""
    value = cute.arch.fmax(value, cute.arch.shuffle_sync_bfly(value, offset=1))
    return cute.arch.fmax(value, cute.arch.shuffle_sync_bfly(value, offset=2))


@cute.jit
def sum_over_row(value: Float32) -> Float32:
    """Sum over the four threads that share a row."""
    value = value + cute.arch.shuffle_sync_bfly(value, offset=1)
    return value + cute.arch.shuffle_sync_bfly(value, offset=2)
