"""The Blackwell forward of 8-bit Q, K and V; O is bfloat16.

    S = softmax_scale * (dq Q) (dk K)^T,  O = dv * softmax(S) V,  dq, dk, dv for a batch and KV head

It is the kernel of `kernel` with products of kind f8f6f4: a step of the tensor core takes 32
elements of depth, a cell of tensor memory holds four of P, and V has its keys apart as 16-bit V
does, which the kind allows for 8-bit elements. What differs for the roles:

- softmax scales the scores by dq dk too, and multiplies P by 2^8, of the 448 that e4m3 ends at
  (`config`): sum and product with V both have the factor, which the division takes out, and lse
  the sum without it.
- correction multiplies by dv beside the division, and writes bfloat16.
"""

import cuda.bindings.driver as cuda
import cutlass.cute as cute
from cutlass import Float32, Int32

from jax_fa4.kernels.sm100.forward.context import Further
from jax_fa4.kernels.sm100.forward.kernel import ForwardSm100
from jax_fa4.kernels.toolkit.forward_arrays import Shape


class ForwardFp8Sm100(ForwardSm100):
    """One compiled forward kernel for 8-bit elements; see the module's docstring."""

    @cute.jit
    def __call__(
        self,
        q_ptr: cute.Pointer,
        k_ptr: cute.Pointer,
        v_ptr: cute.Pointer,
        q_descale_ptr: cute.Pointer,
        k_descale_ptr: cute.Pointer,
        v_descale_ptr: cute.Pointer,
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
        band_lower: Int32,
        band_upper: Int32,
        sm_count: Int32,
        stream: cuda.CUstream,
    ):
        """As `ForwardSm100`, with descales (batch, heads_kv) in float32."""
        shape = Shape(batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v)
        self.launch(
            (q_ptr, k_ptr, v_ptr, out_ptr, lse_ptr),
            Further(descales=(q_descale_ptr, k_descale_ptr, v_descale_ptr)),
            shape,
            softmax_scale,
            (band_lower, band_upper),
            sm_count,
            stream,
        )
