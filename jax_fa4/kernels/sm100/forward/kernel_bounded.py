"""The Blackwell forward where each row has bounds of its own, ids and a sink, with softcap or not.

    S = softmax_scale * Q K^T; with a softcap, S = softcap * tanh(S / softcap)
    row i sees key j iff first[i] <= j <= last[i] and query_ids[i] == key_ids[j]
    O = exp(S) V / (sum of exp(S) + exp(sink of the head))

It is the kernel of `kernel` but for these: which blocks a tile visits, and which of them whole,
every role reads from `query_groups` (`toolkit.key_bounds`); softmax masks the others by row
(`bounded`), and caps scores (`softcap`). The band is ignored: bounds contain it.
"""

import cuda.bindings.driver as cuda
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.forward.context import Further
from jax_fa4.kernels.sm100.forward.kernel import ForwardSm100
from jax_fa4.kernels.toolkit.forward_arrays import Shape


class ForwardBoundedSm100(ForwardSm100):
    """One compiled forward kernel with bounds of rows; see the module's docstring."""

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
        """As `ForwardSm100`; the bounds' arrays are int32, sinks (heads_q) float32."""
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        bounds = (row_bounds_ptr, query_ids_ptr, key_ids_ptr, query_groups_ptr, sinks_ptr)
        self.launch(
            (q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr),
            Further(bounds=bounds, softcap=softcap),
            shape,
            softmax_scale,
            (band_lower, band_upper),
            sm_count,
            stream,
        )
