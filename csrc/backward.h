// FFI target jax_fa4_bwd_preprocess_v1: delta = rowsum(dout * out) - dlse.
//   out and dout (B, S, H, D), bf16 or fp16; dlse (B, H, S) fp32 -> delta (B, H, S) fp32
//   attribute: variants (str)
// On the CPU, jax_fa4_emulated_bwd_preprocess_v1: the same and the emulator's attributes
// (emulated_launch.h).
#pragma once

#include "xla/ffi/api/ffi.h"

extern "C" {
XLA_FFI_Error* jax_fa4_bwd_preprocess_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_bwd_preprocess_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_bwd_preprocess_v1(XLA_FFI_CallFrame* call_frame);
}
