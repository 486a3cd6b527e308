// FFI target jax_fa4_fwd_v1: attention forward.
//   q (B, Sq, Hq, D), k (B, Sk, Hkv, D), v (B, Sk, Hkv, Dv), bf16 or fp16
//   -> out (B, Sq, Hq, Dv) of the same dtype, lse (B, Hq, Sq) fp32, natural logarithm
//   attributes: variants (str), softmax_scale (f32), band_lower and band_upper (i32)
// FFI target jax_fa4_fwd_fp8_v1: the same of e4m3 with descales, scores and out being those of q, k
// and v times their descales. D and Dv are multiples of 16.
//   q, k, v of e4m3, then q_descale, k_descale, v_descale (B, Hkv) fp32 -> out bf16, lse fp32
// On the CPU, jax_fa4_emulated_fwd_v1 and jax_fa4_emulated_fwd_fp8_v1: these with the emulator's
// attributes (emulated_launch.h).
// Row i attends key j iff band_lower <= j - i <= band_upper.
#pragma once

#include "xla/ffi/api/ffi.h"

extern "C" {
XLA_FFI_Error* jax_fa4_fwd_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_fwd_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_fwd_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_fwd_fp8_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_fwd_fp8_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_fwd_fp8_v1(XLA_FFI_CallFrame* call_frame);
}
