"""The Blackwell backward of wide heads where each row has bounds of its own and an id.

    S = softmax_scale * Q K^T; with a softcap, S = softcap * tanh(S / softcap)
    row i sees key j iff first[i] <= j <= last[i] and query_ids[i] == key_ids[j]
    dS = P (dP - delta); with a softcap, (1 - tanh^2) times that

It is the kernel of `kernel` but for these. A CTA that owns keys visits the blocks of queries that
`key_groups` names for them, one that owns queries the blocks of keys that `query_groups` names;
these groups also say where all see all, and compute masks the rest by element
(`toolkit.visible_words`). The band is ignored: bounds contain it.
"""

import cuda.bindings.driver as cuda
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.backward.context import Further
from jax_fa4.kernels.sm100.backward_wide.kernel import BackwardWideSm100
from jax_fa4.kernels.toolkit.forward_arrays import Shape


class BackwardWideBoundedSm100(BackwardWideSm100):
    """One compiled backward kernel with bounds of rows; see the module's docstring."""

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
        """As `BackwardWideSm100`; the bounds' arrays are int32."""
        of_qk = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim)
        of_v = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim_v, head_dim_v)
        bounds = (row_bounds_ptr, query_ids_ptr, key_ids_ptr, query_groups_ptr, key_groups_ptr)
        self.launch(
            (q_ptr, k_ptr, v_ptr, dout_ptr, dk_ptr, dv_ptr),
            (lse_log2_ptr, delta_ptr, dq_accum_ptr),
            Further(bounds, softcap),
            (of_qk, of_v),
            softmax_scale,
            (band_lower, band_upper),
            stream,
        )
