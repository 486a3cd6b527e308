"""Backward preprocess: delta = rowsum(dO * O) - dlse, for every architecture.

    delta[b, h, s] = sum_d dO[b, s, h, d] * O[b, s, h, d] - dlse[b, h, s]

O and dO are bf16 or fp16, (B, S, H, D) row-major; dlse and delta are float32,
(B, H, S) row-major; products and sums are float32. D is a run-time multiple of 8,
B, S, H are any positive lengths, and offsets are 64-bit.

The softmax gradient is dS = P * (dP - rowsum(dO * O)); a cotangent `dlse` of the
log-sum-exp adds P * dlse, which is the same formula with delta in place of the row
sum (FlashAttention-2, arXiv 2307.08691, section 3.1).

Work of a CTA: 64 consecutive rows s of one (b, h), 256 threads.

    lane 0..15 of half-warp j  ->  rows 4j .. 4j+3, 16 bytes each of O and dO a step
    one step covers 128 columns; narrower rows leave lanes idle, wider ones loop
    shuffles sum a half-warp; its lanes 0..3 write the four sums
    a warp therefore writes 8 consecutive floats: one whole 32-byte sector

Rows past S read row S - 1 again and write nothing, so loads need no row predicate
and all eight of a step are in flight together.

Roofline: memory. 4 D + 8 bytes and 2 D FLOPs a row, half a FLOP per byte. With
B S = 16384 and H D = 2048 it moves 134 MB (D = 128, bf16): 45 us at the 3.0 TB/s
that a device-to-device copy reaches on one H100. ptxas: 56 registers on sm_90a, 48 on
sm_100f, no stack; 32 warps a multiprocessor keep 128 KB in flight, far above the need.
"""

from __future__ import annotations

import cuda.bindings.driver as cuda
import cutlass
from cutlass import BFloat16, Float16, Float32, Int32, Int64, cute

from jax_fa4.variants import BackwardPreprocessVariant, DType

ELEMENT_TYPES: dict[DType, type[cutlass.Numeric]] = {DType.BF16: BFloat16, DType.FP16: Float16}

VECTOR_ELEMENTS = 8  # 16 bytes, the widest load of one thread
LANES_PER_ROW = 16
COLUMNS_PER_STEP = LANES_PER_ROW * VECTOR_ELEMENTS
ROWS_PER_GROUP = 4  # rows of one half-warp; 8 loads of 16 bytes in flight a thread
THREADS = 256
TILE_ROWS = THREADS // LANES_PER_ROW * ROWS_PER_GROUP
MAX_GRID_Y = 65535


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
        dlse_ptr: cute.Pointer,
        delta_ptr: cute.Pointer,
        batch: Int32,
        seqlen: Int32,
        heads: Int32,
        head_dim: Int32,
        stream: cuda.CUstream,
    ) -> None:
        """Launch: CTA x is (tile of rows, head), heads fastest; y and z are the batch."""
        tiles = cute.ceil_div(seqlen, TILE_ROWS)
        grid_y = cutlass.min(batch, MAX_GRID_Y)
        self.kernel(out_ptr, dout_ptr, dlse_ptr, delta_ptr, batch, seqlen, heads, head_dim).launch(
            grid=(tiles * heads, grid_y, cute.ceil_div(batch, grid_y)),
            block=(THREADS, 1, 1),
            stream=stream,
        )

    @cute.kernel
    def kernel(
        self,
        out_ptr: cute.Pointer,
        dout_ptr: cute.Pointer,
        dlse_ptr: cute.Pointer,
        delta_ptr: cute.Pointer,
        batch: Int32,
        seqlen: Int32,
        heads: Int32,
        head_dim: Int32,
    ) -> None:
        tidx, _, _ = cute.arch.thread_idx()
        block_x, block_y, block_z = cute.arch.block_idx()
        _, grid_y, _ = cute.arch.grid_dim()
        head = block_x % heads
        batch_index = block_z * grid_y + block_y
        lane = tidx % LANES_PER_ROW
        first_row = block_x // heads * TILE_ROWS + tidx // LANES_PER_ROW * ROWS_PER_GROUP

        if batch_index < batch:
            # Start of this (b, h) in the (B, S, H, D) and in the (B, H, S) arrays.
            row_stride = Int64(heads) * head_dim
            slab = Int64(batch_index) * seqlen * row_stride + Int64(head) * head_dim
            stats = (Int64(batch_index) * heads + head) * seqlen

            # dlse of the row that this lane writes, asked for before the long loads.
            my_row = first_row + lane % ROWS_PER_GROUP
            writes = lane < ROWS_PER_GROUP and my_row < seqlen
            mdLSE = cute.make_tensor(dlse_ptr + stats, cute.make_layout(seqlen))
            mDelta = cute.make_tensor(delta_ptr + stats, cute.make_layout(seqlen))
            dlse = Float32(0.0)
            if writes:
                dlse = mdLSE[my_row]

            sums = self._row_sums(
                out_ptr, dout_ptr, slab, row_stride, first_row, seqlen, head_dim, lane
            )

            total = Float32(0.0)
            for i in cutlass.range_constexpr(ROWS_PER_GROUP):
                row_sum = cute.arch.warp_reduction_sum(sums[i], threads_in_group=LANES_PER_ROW)
                if lane == i:
                    total = row_sum
            if writes:
                mDelta[my_row] = total - dlse

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
