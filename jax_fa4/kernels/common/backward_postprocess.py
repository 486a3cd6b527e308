"""Backward postprocess: dq = scale * dq_accum in 16 bits, for every architecture.

dq_accum is float32, (B, H, S_padded, W) in the order that each architecture's main kernel adds in;
dq is (B, S, H, D) row-major, D <= W a run-time multiple of 8.

Work of a CTA: 64 rows of one (b, h), 128 threads, in panels of 64 columns.

    dq_accum --16 bytes a thread--> registers, scaled and rounded --> a tile of shared memory,
    its rows padded by 16 bytes --> 16 bytes a thread, 128 bytes a row --> dq

Order on sm_90: rows go in blocks of 64, and a row of blocks in panels of 64 columns. A panel is the
accumulators of a warpgroup's dQ (PTX ISA, matrix D of wgmma m64n64k16), four registers a thread:
float 512 g + 4 t + e is row 16 (t / 32) + t % 32 / 4 + 8 (e / 2), column 8 g + 2 (t % 4) + e % 2.

Order on sm_100: tiles of 32 rows; float 128 c + 4 r + e of one is row r, column 4 c + e.

Roofline: memory, 4 W + 2 D bytes a row. With B S = 16384, H D = 2048 it moves 201 MB: 67 us at the
3.0 TB/s of a device-to-device copy on one H100.
"""

from __future__ import annotations

import cuda.bindings.driver as cuda
import cutlass
from cutlass import Float32, Int32, Int64, cute
from cutlass.memory import SmemAllocator

from jax_fa4.kernels.common.backward_preprocess import ELEMENT_TYPES, MAX_GRID_Y
from jax_fa4.variants.variant import Arch, BackwardPostprocessVariant

ROWS = 64
COLUMNS = 64
THREADS = 128
PIECE = 8  # elements of 16 bytes
FLOATS = 4  # 16 bytes
STEPS = ROWS * COLUMNS // (THREADS * FLOATS)
_ROW_STRIDE = COLUMNS + PIECE  # against bank conflicts


class BackwardPostprocess:
    """The postprocess kernel of one architecture and element type."""

    def __init__(self, variant: BackwardPostprocessVariant) -> None:
        self.arch = variant.arch
        self.element_type = ELEMENT_TYPES[variant.dtype]

    @cute.jit
    def __call__(
        self,
        dq_accum_ptr: cute.Pointer,
        dq_ptr: cute.Pointer,
        batch: Int32,
        seqlen_q: Int32,
        seqlen_q_padded: Int32,
        heads_q: Int32,
        head_dim: Int32,
        dq_tile_width: Int32,
        softmax_scale: Float32,
        stream: cuda.CUstream,
    ) -> None:
        """Launch: CTA x is (block of rows, head), heads fastest; y and z are the batch."""
        grid_y = cutlass.min(batch, MAX_GRID_Y)
        self.kernel(
            dq_accum_ptr,
            dq_ptr,
            (batch, seqlen_q, seqlen_q_padded, heads_q, head_dim, dq_tile_width),
            softmax_scale,
        ).launch(
            grid=(cute.ceil_div(seqlen_q, ROWS) * heads_q, grid_y, cute.ceil_div(batch, grid_y)),
            block=(THREADS, 1, 1),
            stream=stream,
        )

    @cute.kernel
    def kernel(
        self,
        dq_accum_ptr: cute.Pointer,
        dq_ptr: cute.Pointer,
        lengths: tuple[Int32, Int32, Int32, Int32, Int32, Int32],
        scale: Float32,
    ) -> None:
        batch, seqlen, seqlen_padded, heads, head_dim, width = lengths
        tidx, _, _ = cute.arch.thread_idx()
        block_x, block_y, block_z = cute.arch.block_idx()
        _, grid_y, _ = cute.arch.grid_dim()
        head = block_x % heads
        batch_index = block_z * grid_y + block_y
        is_mine = batch_index < batch
        if cutlass.const_expr(self.arch is Arch.SM90):
            # Last batches first: what the main kernel added to last is still in L2.
            batch_index = batch - 1 - batch_index
            is_mine = batch_index >= 0
        row = block_x // heads * ROWS
        tile = SmemAllocator().allocate_tensor(
            self.element_type, cute.make_layout(ROWS * _ROW_STRIDE), byte_alignment=16
        )

        if is_mine:
            line = Int64(batch_index) * heads + head
            start = (line * seqlen_padded + row) * width
            accumulated = dq_accum_ptr + cute.assume(start, divby=FLOATS)
            row_stride = Int64(heads) * head_dim
            first = Int64(batch_index) * seqlen * row_stride + Int64(head) * head_dim
            first = first + row * row_stride
            for column in cutlass.range(0, head_dim, COLUMNS):
                self._read_panel(accumulated, tile, (column, width, seqlen - row), scale, tidx)
                cute.arch.sync_threads()
                target = dq_ptr + cute.assume(first + column, divby=PIECE)
                self._write_panel(tile, target, (seqlen - row, head_dim - column), row_stride, tidx)
                cute.arch.sync_threads()

    @cute.jit
    def _read_panel(self, accumulated, tile, extents, scale, tidx) -> None:
        """Columns `column` .. + 63 of dq_accum, scaled and rounded, to shared memory."""
        for step in cutlass.range_constexpr(STEPS):
            offset, places = self._place(step, extents, tidx)
            source = accumulated + cute.assume(offset, divby=FLOATS)
            values = cute.make_rmem_tensor(FLOATS, Float32)
            cute.autovec_copy(cute.make_tensor(source, cute.make_layout(FLOATS)), values)
            for half in cutlass.range_constexpr(2):
                pair = cute.make_rmem_tensor(2, self.element_type)
                for e in cutlass.range_constexpr(2):
                    pair[e] = (values[2 * half + e] * scale).to(self.element_type)
                place = tile.iterator + cute.assume(places[half], divby=2)
                cute.autovec_copy(pair, cute.make_tensor(place, cute.make_layout(2)))

    def _place(self, step: int, extents: tuple[Int32, Int32, Int32], tidx: Int32):
        """Where a thread's four floats of a step are, and where their two pairs go to."""
        column, width, rows = extents
        if self.arch is Arch.SM90:
            at_row = tidx // 32 * 16 + tidx % 32 // 4
            # A row that does not exist is another's numbers, of lines that are read anyway.
            source = cutlass.select_(at_row < rows, tidx, tidx % 4)
            # The last panel may be wider than what is left: its columns past the width go nowhere.
            offset = cutlass.min(column + step * 8, width - 8) * ROWS + source * FLOATS
            at = at_row * _ROW_STRIDE + step * 8 + tidx % 4 * 2
            return offset, (at, at + 8 * _ROW_STRIDE)
        # A warp reads 32 rows of 4 columns; warps take turns over rows, then columns.
        at_row = tidx % 64
        at_column = (step * 2 + tidx // 64) * FLOATS
        # The last panel may be wider than what is left: its columns past the width go nowhere.
        taken = cutlass.min(column + at_column, width - FLOATS)
        offset = at_row // 32 * 32 * width + taken * 32 + at_row % 32 * FLOATS
        at = at_row * _ROW_STRIDE + at_column
        return offset, (at, at + 2)

    @cute.jit
    def _write_panel(self, tile, target, remaining, row_stride, tidx) -> None:
        """Rows and columns that exist, from shared memory."""
        rows, columns = remaining
        pieces = COLUMNS // PIECE
        for step in cutlass.range_constexpr(ROWS * pieces // THREADS):
            number = step * THREADS + tidx
            row, column = number // pieces, number % pieces * PIECE
            if (row < rows) & (column < columns):
                source = tile.iterator + cute.assume(row * _ROW_STRIDE + column, divby=PIECE)
                place = target + cute.assume(row * row_stride + column, divby=PIECE)
                values = cute.make_rmem_tensor(PIECE, self.element_type)
                cute.autovec_copy(cute.make_tensor(source, cute.make_layout(PIECE)), values)
                cute.autovec_copy(values, cute.make_tensor(place, cute.make_layout(PIECE)))
