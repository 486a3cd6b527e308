// FFI target jax_fa4_fwd_bounded_v1: attention forward where what a row sees depends on values.
//   q (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv), bf16 or fp16; row_bounds, query_ids,
//   key_ids, query_groups (bounds_checks.h); sinks (Hq,) fp32, -inf for none
//   -> out (B, Sq, Hq, Dv) of the same dtype, lse (B, Hq, Sq) fp32, natural logarithm, with the
//   sink attributes: variants (str), softmax_scale (f32), softcap (f32): scores are softcap *
//   tanh(scale * q . k / softcap), or scale * q . k where it is 0
// Row i attends key j iff first_i <= j <= last_i and query_ids[i] == key_ids[j].
// On the CPU, jax_fa4_emulated_fwd_bounded_v1: the same and the emulator's attributes
// (emulated_launch.h).
#pragma once

#include "xla/ffi/api/ffi.h"

extern "C" {
XLA_FFI_Error* jax_fa4_fwd_bounded_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_fwd_bounded_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_fwd_bounded_v1(XLA_FFI_CallFrame* call_frame);
}
