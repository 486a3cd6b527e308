"""Merge the parts of decoding: out = sum_s w_s out_s / (sum_s w_s + sink), w_s = exp(lse_s - max).

A warp does one row, four columns a lane and step. Rows of sequences that have one part were written
by the main kernel and are left alone: the number of parts is computed here again (parts.py).

Roofline: memory, 4 (Dv + 1) bytes a row and part: batch 8, 32 heads, 4 parts, Dv = 128: 0.5 MB.
"""

from __future__ import annotations

import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32, Int64

from jax_fa4.kernels.common.decode.parts import parts_of
from jax_fa4.kernels.toolkit.forward_arrays import ELEMENT_TYPES, LN_2, LOG2_E
from jax_fa4.variants.variant import DecodeCombineVariant

WARPS = 4
_COLUMNS = 4  # of a lane and step
_STEP = 32 * _COLUMNS
_UNROLL = 4  # parts, whose loads are in flight at once


class DecodeCombine:
    """The merging kernel of one element type; the architecture is the compiler's target."""

    def __init__(self, variant: DecodeCombineVariant) -> None:
        self.dtype = ELEMENT_TYPES[variant.dtype]

    @cute.jit
    def __call__(
        self,
        out_partial_ptr: cute.Pointer,
        lse_partial_ptr: cute.Pointer,
        lengths_ptr: cute.Pointer,
        sinks_ptr: cute.Pointer,
        out_ptr: cute.Pointer,
        lse_ptr: cute.Pointer,
        batch: Int32,
        seqlen_q: Int32,
        heads_q: Int32,
        head_dim_v: Int32,
        capacity: Int32,
        num_splits: Int32,
        band_lower: Int32,
        band_upper: Int32,
        stream: cuda.CUstream,
    ) -> None:
        """Launch: CTA x has four rows of (B, Hq, Sq)."""
        rows = batch * heads_q * seqlen_q
        self.kernel(
            (out_partial_ptr, lse_partial_ptr, lengths_ptr, sinks_ptr),
            (out_ptr, lse_ptr),
            (seqlen_q, heads_q, head_dim_v, capacity, num_splits),
            (band_lower, band_upper),
            rows,
        ).launch(grid=(cute.ceil_div(rows, WARPS), 1, 1), block=(32 * WARPS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(
        self,
        inputs: tuple[cute.Pointer, ...],
        results: tuple[cute.Pointer, cute.Pointer],
        lengths: tuple[Int32, Int32, Int32, Int32, Int32],
        band: tuple[Int32, Int32],
        rows: Int32,
    ) -> None:
        out_partial, lse_partial, lengths_ptr, sinks = inputs
        seqlen_q, heads, head_dim, capacity, num_splits = lengths
        thread, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        warp, lane = cute.arch.make_warp_uniform(cute.arch.warp_idx()), thread % 32
        row = cta * WARPS + warp
        if row < rows:
            position, line = row % seqlen_q, row // seqlen_q
            head, sequence = line % heads, line // heads
            length = _vector(lengths_ptr, sequence, 1)[0]
            used = parts_of(length, capacity, seqlen_q, band, num_splits).used
            if used > 1:
                sink = _vector(sinks, head, 1)[0]
                first = lse_partial + row
                base, total = _weigh(first, rows, used, sink, lane)
                factor = Float32(0.0) if total == 0.0 else Float32(1.0) / total
                token = (Int64(sequence) * seqlen_q + position) * heads + head
                for column in cutlass.range(lane * _COLUMNS, head_dim, _STEP, unroll=1):
                    sums = cute.make_rmem_tensor(_COLUMNS, Float32)
                    sums.fill(0.0)
                    for part in cutlass.range(used, unroll=_UNROLL):
                        place = Int64(part) * rows
                        weight = _power(_vector(first, place, 1)[0] - base)
                        source = (place + row) * head_dim + column
                        parts = _floats(out_partial, source)
                        for i in cutlass.range_constexpr(_COLUMNS):
                            sums[i] = sums[i] + weight * parts[i]
                    target = _vector(results[0], token * head_dim + column, _COLUMNS)
                    for i in cutlass.range_constexpr(_COLUMNS):
                        target[i] = (sums[i] * factor).to(self.dtype)
                target_lse = _vector(results[1], row, 1)
                if lane == 0:
                    lse = -Float32.inf
                    if total != 0.0:
                        lse = base + cute.math.log2(total, fastmath=True) * LN_2
                    target_lse[0] = lse


@cute.jit
def _weigh(first, rows, used, sink, lane):
    """What all parts' weights are relative to, and their sum; a lane looks at every 32nd part."""
    peak = sink
    for part in cutlass.range(lane, used, 32, unroll=1):
        peak = cute.arch.fmax(peak, _vector(first, Int64(part) * rows, 1)[0])
    for distance in (1, 2, 4, 8, 16):
        peak = cute.arch.fmax(peak, cute.arch.shuffle_sync_bfly(peak, offset=distance))
    base = Float32(0.0) if peak == -Float32.inf else peak
    total = Float32(0.0)
    for part in cutlass.range(lane, used, 32, unroll=1):
        total = total + _power(_vector(first, Int64(part) * rows, 1)[0] - base)
    total = cute.arch.warp_reduction_sum(total)
    return base, total + _power(sink - base)


def _power(x: Float32) -> Float32:
    return cute.math.exp2(x * LOG2_E, fastmath=True)


def _vector(pointer: cute.Pointer, start: Int64, count: int) -> cute.Tensor:
    return cute.make_tensor(pointer + start, cute.make_layout(count))


def _floats(pointer: cute.Pointer, start: Int64) -> cute.Tensor:
    """Columns of one lane: head dims are multiples of 8, so that they are aligned."""
    words = cute.make_rmem_tensor(_COLUMNS, Float32)
    cute.autovec_copy(_vector(pointer, cute.assume(start, divby=_COLUMNS), _COLUMNS), words)
    return words
