// FFI target jax_fa4_bwd_v1: attention backward, three kernels one after the other, or two.
//   q (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv), out and dout (B, Sq, Hq, Dv), bf16 or
//   fp16; lse and dlse (B, Hq, Sq) fp32
//   -> dq, dk, dv like q, k, v; scratch: delta, lse_log2, dq_accum, semaphores
//      (backward_preprocess.h), dq_accum at least as wide as the kernel's tiles of q
//   attributes: variants (str), softmax_scale (f32), band_lower and band_upper (i32)
// `variants` names main kernels. The preprocess kernel before one and the postprocess kernel after
// it, which turns dq_accum into dq, are those of its architecture and dtype. A main kernel of the
// serial form writes dq itself: its dq_accum is scratch without zeros, and no kernel comes after
// it. On the CPU, jax_fa4_emulated_bwd_v1: the same and the emulator's attributes
// (emulated_launch.h).
#pragma once

#include "xla/ffi/api/ffi.h"

extern "C" {
XLA_FFI_Error* jax_fa4_bwd_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_bwd_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_bwd_v1(XLA_FFI_CallFrame* call_frame);
}
