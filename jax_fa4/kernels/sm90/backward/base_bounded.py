"""What Hopper's bounded backward kernels have beside `base`: the launch with the call's tables."""

# No `from __future__ import annotations` here: the DSL reads annotations as objects.
import cuda.bindings.driver as cuda
import cutlass
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm90.backward import bounded
from jax_fa4.kernels.sm90.backward.base import HopperBackward
from jax_fa4.kernels.sm90.backward.bounded import Bounded
from jax_fa4.kernels.toolkit import softcap as caps
from jax_fa4.kernels.toolkit.forward_arrays import LOG2_E, Shape
from jax_fa4.kernels.toolkit.key_bounds import KeyBounds
from jax_fa4.variants.variant import BackwardVariant


class HopperBoundedBackward(HopperBackward):
    """One compiled bounded backward kernel; it comes before the kernel that it is else."""

    def __init__(self, variant: BackwardVariant):
        super().__init__(variant)
        self.softcap = variant.softcap

    @cute.jit
    def __call__(
        self,
        q_ptr: cute.Pointer,
        k_ptr: cute.Pointer,
        v_ptr: cute.Pointer,
        dout_ptr: cute.Pointer,
        row_bounds_ptr: cute.Pointer,
        query_ids_ptr: cute.Pointer,
        key_ids_ptr: cute.Pointer,
        query_groups_ptr: cute.Pointer,
        key_groups_ptr: cute.Pointer,
        lse_log2_ptr: cute.Pointer,
        delta_ptr: cute.Pointer,
        dq_accum_ptr: cute.Pointer,
        dk_ptr: cute.Pointer,
        dv_ptr: cute.Pointer,
        semaphores_ptr: cute.Pointer,
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
        """As `HopperBackward`, with the tables of key_bounds.py; no band."""
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        slope, scale_log2 = Float32(0.0), softmax_scale * LOG2_E
        if cutlass.const_expr(self.softcap):
            slope, scale_log2 = caps.factors(softmax_scale, softcap)
        tables = (row_bounds_ptr, query_ids_ptr, key_ids_ptr, query_groups_ptr, key_groups_ptr)
        self.launch(
            (q_ptr, k_ptr, v_ptr, dout_ptr),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr, semaphores_ptr),
            (dk_ptr, dv_ptr),
            shape,
            (shape.band(band_lower, band_upper), softmax_scale),
            (*tables, slope, scale_log2),
            sm_count,
            stream,
        )

    def _bounded(self, bounds, band) -> Bounded | None:
        *tables, key_groups, slope, _ = bounds
        keys = KeyBounds(*tables, band.seqlen_q, band.seqlen_k, key_groups)
        return Bounded(keys, slope if self.softcap else None)

    def _queries(self, band, bounds, key, batch):
        keys = self.config.ctas * self.config.tile_n
        return bounded.seen_blocks(bounds.keys, batch, key, keys)

    def _scale_log2(self, scale, bounds):
        return bounds[-1]
