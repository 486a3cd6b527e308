"""The Hopper forward where every row has bounds and an id of its own, and heads have sinks.

    O = softmax(scale * Q K^T, where keys are seen) V,  lse per row, both with exp(sink) in the sum
    with `softcap`: cap tanh(scale * Q K^T / cap) for the scores

It is the kernel of `kernel`, with one CTA a tile, since tiles differ in length as the bounds say:
the hardware shares them out. What differs for the roles is in `bounded`.
"""

# No `from __future__ import annotations` here: the DSL reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32

from jax_fa4.kernels.sm90.forward import walk
from jax_fa4.kernels.sm90.forward.bounded import Bounded
from jax_fa4.kernels.sm90.forward.kernel import ForwardSm90
from jax_fa4.kernels.toolkit import softcap as caps
from jax_fa4.kernels.toolkit.block_range import Band
from jax_fa4.kernels.toolkit.forward_arrays import LOG2_E, Shape
from jax_fa4.kernels.toolkit.key_bounds import KeyBounds


class ForwardBoundedSm90(ForwardSm90):
    """One compiled bounded forward kernel for Hopper; see the module's docstring."""

    @cute.jit
    def __call__(
        self,
        q_ptr: cute.Pointer,
        k_ptr: cute.Pointer,
        v_ptr: cute.Pointer,
        row_bounds_ptr: cute.Pointer,
        query_ids_ptr: cute.Pointer,
        key_ids_ptr: cute.Pointer,
        query_groups_ptr: cute.Pointer,
        sinks_ptr: cute.Pointer,
        out_ptr: cute.Pointer,
        lse_ptr: cute.Pointer,
        batch: Int32,
        seqlen_q: Int32,
        seqlen_k: Int32,
        heads_q: Int32,
        heads_kv: Int32,
        head_dim: Int32,
        head_dim_v: Int32,
        softmax_scale: Float32,
        softcap: Float32,
        band_lower: Int32,
        band_upper: Int32,
        sm_count: Int32,
        stream: cuda.CUstream,
    ):
        """As `ForwardSm90`, with the tables of key_bounds.py and (heads_q) sinks; no band."""
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        slope, scale_log2 = Float32(0.0), softmax_scale * LOG2_E
        if cutlass.const_expr(self.config.softcap):
            slope, scale_log2 = caps.factors(softmax_scale, softcap)
        tables = (row_bounds_ptr, query_ids_ptr, key_ids_ptr, query_groups_ptr)
        self.launch(
            (q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr),
            shape,
            shape.band(band_lower, band_upper),
            scale_log2,
            (*tables, sinks_ptr, slope),
            sm_count,
            stream,
        )

    @cute.jit
    def _walk(self, shape: Shape, band: Band, sm_count: Int32) -> tuple[walk.Walk, Int32]:
        """A CTA a tile, of the last rows first."""
        order = walk.Walk(shape.scheduler(self.config.tile_m, self.dtype), Boolean(False))
        return order, walk.units(order)

    def _bounded(self, bounds: tuple, band) -> Bounded:
        *tables, sinks, slope = bounds
        _, _, seqlen_q, seqlen_k = band
        return Bounded(KeyBounds(*tables, seqlen_q, seqlen_k), sinks, slope)
