"""Backward preprocess: numbers of rows, and zeros, for every architecture.

    delta[b, h, s] = sum_d dO[b, s, h, d] * O[b, s, h, d] - dlse[b, h, s]
    lse_log2[b, h, s] = lse[b, h, s] * log2(e), or +inf where lse is -inf
    dq_accum = 0, semaphores = 0

O and dO are bf16 or fp16, (B, S, H, D) row-major; lse and dlse are float32, (B, H, S)
row-major; products and sums are float32. D is a run-time multiple of 8, B, S, H are any
positive lengths, and offsets are 64-bit. delta and lse_log2 are float32, (B, H, S_padded),
S_padded a multiple of 128: rows past S have delta 0 and lse_log2 +inf, with which the main
kernel's P = exp2(scale log2(e) QK^T - lse_log2) is 0. Rows that see no key get the same, delta too:
the cotangent of an lse of -inf is easily infinite, and 0 * inf is NaN. On sm_90, whose main kernels
have tiles of 64 queries, what lies past the last such tile with a row is not written.

The softmax gradient is dS = P * (dP - rowsum(dO * O)); a cotangent `dlse` of the
log-sum-exp adds P * dlse, which is the same formula with delta in place of the row
sum (FlashAttention-2, arXiv 2307.08691, section 3.1).

Work of a CTA: 64 consecutive rows s of one (b, h), 256 threads.

    lane 0..15 of half-warp j  ->  rows 4j .. 4j+3, 16 bytes each of O and dO a step
    one step covers 128 columns; narrower rows leave lanes idle, wider ones loop
    shuffles sum a half-warp; its lanes 0..3 write the four sums
    a warp therefore writes 8 consecutive floats: one whole 32-byte sector
    dq_accum (B, H, S_padded, width): 64 rows are contiguous, 16 bytes a thread and step
    semaphores (B, H, S_padded / 64): one of them

Rows past S read row S - 1 again, so loads need no row predicate and all eight of a step are
in flight together.

Roofline: memory. 4 D + 16 bytes read and written of a row's inputs and numbers, 4 W bytes of
zeros, and 2 D FLOPs a row. With B S = 16384 and H D = 2048 it moves 268 MB (D = W = 128, bf16):
90 us at the 3.0 TB/s that a device-to-device copy reaches on one H100, half of it for zeros.
"""

from __future__ import annotations

import cuda.bindings.driver as cuda
import cutlass
from cutlass import BFloat16, Float16, Float32, Int32, Int64, cute

from jax_fa4.variants.variant import Arch, BackwardPreprocessVariant, DType

ELEMENT_TYPES: dict[DType, type[cutlass.Numeric]] = {DType.BF16: BFloat16, DType.FP16: Float16}

VECTOR_ELEMENTS = 8  # 16 bytes, the widest load of one thread
LANES_PER_ROW = 16
COLUMNS_PER_STEP = LANES_PER_ROW * VECTOR_ELEMENTS
ROWS_PER_GROUP = 4  # rows of one half-warp; 8 loads of 16 bytes in flight a thread
THREADS = 256
TILE_ROWS = THREADS // LANES_PER_ROW * ROWS_PER_GROUP
MAX_GRID_Y = 65535
ZERO_FLOATS = 4  # 16 bytes
LOG2_E = 1.4426950408889634


class BackwardPreprocess:
    """The preprocess kernel of one element type; the architecture is the compiler's target."""

    def __init__(self, variant: BackwardPreprocessVariant) -> None:
        self.variant = variant
        self.element_type = ELEMENT_TYPES[variant.dtype]

    @cute.jit
    def __call__(
        self,
        out_ptr: cute.Pointer,
        dout_ptr: cute.Pointer,
        lse_ptr: cute.Pointer,
        dlse_ptr: cute.Pointer,
        delta_ptr: cute.Pointer,
        lse_log2_ptr: cute.Pointer,
        dq_accum_ptr: cute.Pointer,
        semaphores_ptr: cute.Pointer,
        batch: Int32,
        seqlen_q: Int32,
        seqlen_q_padded: Int32,
        heads_q: Int32,
        head_dim_v: Int32,
        dq_tile_width: Int32,
        stream: cuda.CUstream,
    ) -> None:
        """Launch: CTA x is (tile of rows, head), heads fastest; y and z are the batch."""
        tiles = seqlen_q_padded // TILE_ROWS
        if cutlass.const_expr(self.variant.arch is Arch.SM90):
            tiles = cute.ceil_div(seqlen_q, TILE_ROWS)
        grid_y = cutlass.min(batch, MAX_GRID_Y)
        self.kernel(
            (out_ptr, dout_ptr),
            (lse_ptr, dlse_ptr),
            (delta_ptr, lse_log2_ptr),
            (dq_accum_ptr, semaphores_ptr),
            (batch, seqlen_q, seqlen_q_padded, heads_q, head_dim_v, dq_tile_width),
        ).launch(
            grid=(tiles * heads_q, grid_y, cute.ceil_div(batch, grid_y)),
            block=(THREADS, 1, 1),
            stream=stream,
        )

    @cute.kernel
    def kernel(
        self,
        values: tuple[cute.Pointer, cute.Pointer],
        rows: tuple[cute.Pointer, cute.Pointer],
        results: tuple[cute.Pointer, cute.Pointer],
        zeros: tuple[cute.Pointer, cute.Pointer],
        lengths: tuple[Int32, Int32, Int32, Int32, Int32, Int32],
    ) -> None:
        batch, seqlen, seqlen_padded, heads, head_dim, width = lengths
        tidx, _, _ = cute.arch.thread_idx()
        block_x, block_y, block_z = cute.arch.block_idx()
        _, grid_y, _ = cute.arch.grid_dim()
        head = block_x % heads
        batch_index = block_z * grid_y + block_y
        is_mine = batch_index < batch
        if cutlass.const_expr(self.variant.arch is Arch.SM90):
            # Last batches first: the main kernel begins with what is then in L2.
            batch_index = batch - 1 - batch_index
            is_mine = batch_index >= 0
        tile = block_x // heads
        lane = tidx % LANES_PER_ROW
        first_row = tile * TILE_ROWS + tidx // LANES_PER_ROW * ROWS_PER_GROUP

        if is_mine:
            # Start of this (b, h) in the (B, S, H, D) and in the (B, H, S) arrays.
            row_stride = Int64(heads) * head_dim
            slab = Int64(batch_index) * seqlen * row_stride + Int64(head) * head_dim
            line = Int64(batch_index) * heads + head

            # Numbers of the row that this lane writes, asked for before the long loads.
            my_row = first_row + lane % ROWS_PER_GROUP
            lse, dlse = Float32(0.0), Float32(0.0)
            if my_row < seqlen:
                lse = _vector(rows[0], line * seqlen, seqlen)[my_row]
                dlse = _vector(rows[1], line * seqlen, seqlen)[my_row]

            self._write_zeros(zeros, line, tile, (seqlen_padded, width), tidx)
            sums = self._row_sums(*values, slab, row_stride, first_row, seqlen, head_dim, lane)

            total = Float32(0.0)
            for i in cutlass.range_constexpr(ROWS_PER_GROUP):
                row_sum = cute.arch.warp_reduction_sum(sums[i], threads_in_group=LANES_PER_ROW)
                if lane == i:
                    total = row_sum
            if lane < ROWS_PER_GROUP:
                sees_nothing = (lse == -Float32.inf) | (my_row >= seqlen)
                delta = Float32(0.0) if sees_nothing else total - dlse
                lse_log2 = Float32.inf if sees_nothing else lse * LOG2_E
                _vector(results[0], line * seqlen_padded, seqlen_padded)[my_row] = delta
                _vector(results[1], line * seqlen_padded, seqlen_padded)[my_row] = lse_log2

    @cute.jit
    def _write_zeros(self, zeros, line: Int64, tile: Int32, extents, tidx: Int32) -> None:
        """This CTA's share: 64 rows of dq_accum, and a semaphore."""
        seqlen_padded, width = extents
        start = (line * seqlen_padded + tile * TILE_ROWS) * width
        zero = cute.make_rmem_tensor(ZERO_FLOATS, Float32)
        zero.fill(0.0)
        for step in cutlass.range(tidx * ZERO_FLOATS, TILE_ROWS * width, THREADS * ZERO_FLOATS):
            target = zeros[0] + cute.assume(start + step, divby=ZERO_FLOATS)
            cute.autovec_copy(zero, cute.make_tensor(target, cute.make_layout(ZERO_FLOATS)))
        if tidx == 0:
            count = seqlen_padded // TILE_ROWS
            _vector(zeros[1], line * count, count)[tile] = Int32(0)

    @cute.jit
    def _row_sums(
        self,
        out_ptr: cute.Pointer,
        dout_ptr: cute.Pointer,
        slab: Int64,
        row_stride: Int64,
        first_row: Int32,
        seqlen: Int32,
        head_dim: Int32,
        lane: Int32,
    ) -> cute.Tensor:
        """This lane's share of sum_d dO * O for rows first_row .. + ROWS_PER_GROUP - 1."""
        offsets = []
        for i in cutlass.range_constexpr(ROWS_PER_GROUP):
            row = cutlass.min(first_row + i, seqlen - 1)
            offsets.append(slab + row * row_stride + lane * VECTOR_ELEMENTS)

        sums = cute.make_rmem_tensor(ROWS_PER_GROUP, Float32)
        sums.fill(0.0)
        for start in cutlass.range(0, head_dim, COLUMNS_PER_STEP):
            if start + lane * VECTOR_ELEMENTS < head_dim:
                rO = [self._load(out_ptr, offset + start) for offset in offsets]
                rdO = [self._load(dout_ptr, offset + start) for offset in offsets]
                for i in cutlass.range_constexpr(ROWS_PER_GROUP):
                    for j in cutlass.range_constexpr(VECTOR_ELEMENTS):
                        sums[i] = sums[i] + Float32(rO[i][j]) * Float32(rdO[i][j])
        return sums

    def _load(self, pointer: cute.Pointer, offset: Int64) -> cute.Tensor:
        """16 bytes at `offset` elements, which is a multiple of 8, in registers."""
        source = pointer + cute.assume(offset, divby=VECTOR_ELEMENTS)
        fragment = cute.make_rmem_tensor(VECTOR_ELEMENTS, self.element_type)
        cute.autovec_copy(cute.make_tensor(source, cute.make_layout(VECTOR_ELEMENTS)), fragment)
        return fragment


def _vector(pointer: cute.Pointer, start: Int64, count: Int32) -> cute.Tensor:
    """`count` elements from `start` on."""
    return cute.make_tensor(pointer + start, cute.make_layout(count))
