"""A CTA's own rows between global memory and tensor memory; each thread has its own row's half.

Once a CTA: Q and K, and V and dO where they have room, come as operands of 16 bits, and the sum
leaves, rounded, or in float32 for the postprocess. Rows and columns past the end come as zeros, and
go nowhere.
"""

from __future__ import annotations

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from jax_fa4.kernels.sm100.backward_wide.config import HALVES
from jax_fa4.kernels.toolkit import tensor_memory
from jax_fa4.kernels.toolkit.accumulators import convert

_PIECE = 8  # elements of 16 bytes
_CHUNK = 32  # columns in registers at a time
_VECTOR = 4  # floats of 16 bytes


@cute.jit
def fetch(
    context,
    source: cute.Pointer,
    exists,
    columns: Int32,
    width: cutlass.Constexpr,
    column: cutlass.Constexpr,
    place: tuple[Int32, Int32],
) -> None:
    """This thread's half of the row at `source`, of `columns` elements, as operand A of `width`
    whose first column of tensor memory is `column`."""
    half, lane = place
    begin = half * (width // HALVES)
    elements = cute.make_rmem_tensor(width // HALVES, context.dtype)
    elements.fill(0.0)
    for c in cutlass.range_constexpr(0, width // HALVES, _PIECE):
        if exists & (begin + c < columns):
            row = source + cute.assume(begin + c, divby=_PIECE)
            part = cute.make_tensor(elements.iterator + c, cute.make_layout(_PIECE))
            cute.autovec_copy(cute.make_tensor(row, cute.make_layout(_PIECE)), part)
    for c in cutlass.range_constexpr(0, width // HALVES, _CHUNK):
        cells = cute.make_tensor(
            cute.recast_ptr(elements.iterator + c, dtype=Float32), cute.make_layout(_CHUNK // 2)
        )
        target = context.tmem + column + half * (width // HALVES // 2) + c // 2
        tensor_memory.store(cells, target, lane)


@cute.jit
def store_rounded(
    context,
    target: cute.Pointer,
    exists,
    columns: Int32,
    width: cutlass.Constexpr,
    column: cutlass.Constexpr,
    scale: Float32,
    place: tuple[Int32, Int32],
) -> None:
    """This thread's half of the row of the sum at `column`, scaled, to the row at `target`."""
    half, lane = place
    begin = half * (width // HALVES)
    base = context.tmem + column
    for c in cutlass.range_constexpr(0, width // HALVES, _CHUNK):
        values = cute.make_rmem_tensor(_CHUNK, Float32)
        tensor_memory.load(base + begin + c, values, lane)
        tensor_memory.wait_loads()
        for i in cutlass.range_constexpr(0, _CHUNK, 2):
            pair = (values[i], values[i + 1])
            values[i], values[i + 1] = cute.arch.mul_packed_f32x2(pair, (scale, scale))
        rounded = cute.make_rmem_tensor(_CHUNK, context.dtype)
        convert(values, rounded)
        for piece in cutlass.range_constexpr(0, _CHUNK, _PIECE):
            at = begin + c + piece
            if exists & (at < columns):
                row = target + cute.assume(at, divby=_PIECE)
                part = cute.make_tensor(rounded.iterator + piece, cute.make_layout(_PIECE))
                cute.autovec_copy(part, cute.make_tensor(row, cute.make_layout(_PIECE)))


@cute.jit
def store_sums(
    context,
    target: cute.Pointer,
    column: cutlass.Constexpr,
    place: tuple[Int32, Int32],
    row: Int32,
) -> None:
    """This thread's half of dQ's row to the tile of 32 rows at `target`, of which it has `row`, in
    the order that the postprocess reads: element (r, c) at c / 4 * 128 + r * 4 + c mod 4."""
    half, lane = place
    width = context.config.head_dim
    begin = half * (width // HALVES)
    base = context.tmem + column
    first = target + cute.assume(begin * 32 + row * _VECTOR, divby=_VECTOR)
    for c in cutlass.range_constexpr(0, width // HALVES, _CHUNK):
        values = cute.make_rmem_tensor(_CHUNK, Float32)
        tensor_memory.load(base + begin + c, values, lane)
        tensor_memory.wait_loads()
        for i in cutlass.range_constexpr(0, _CHUNK, _VECTOR):
            part = cute.make_tensor(values.iterator + i, cute.make_layout(_VECTOR))
            to = first + (c + i) * 32
            cute.autovec_copy(part, cute.make_tensor(to, cute.make_layout(_VECTOR)))


def offset_of(work, row: Int32, seqlen: Int32, heads: Int32, head_dim: Int32) -> Int64:
    """Of a row of the CTA's own head in a contiguous BSHD array."""
    return ((Int64(work.batch) * seqlen + row) * heads + work.head) * head_dim
