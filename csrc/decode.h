// The FFI target jax_fa4_decode_v1: a few queries of each sequence against a cache in pages.
//   q (B, Sq, Hq, D), bf16 or fp16; k (P, page_size, Hkv, D), v (P, page_size, Hkv, Dv) likewise;
//   page_table (B, n) int32; lengths (B,) int32; sinks (Hq,) fp32, -inf for none
//   -> out (B, Sq, Hq, Dv), lse (B, Hq, Sq) fp32
//      out_partial (parts, B, Hq, Sq, Dv) and lse_partial (parts, B, Hq, Sq), fp32: scratch
//   attributes: variants (str), softmax_scale, softcap (f32, 0 for none), band_lower, band_upper
//   (i32): query i, at position p = lengths[b] - Sq + i, sees key j iff band_lower <= j - p <=
//   band_upper.
// Where n > 1, page_size is a multiple of 16: the kernel reads boxes of 16 rows of one page.
// Lengths and ids of pages are clamped on the device. With one part nothing is merged, and the
// scratch is not touched. On the CPU, jax_fa4_emulated_decode_v1: the same and the emulator's
// attributes (emulated_launch.h).
#pragma once

#include "xla/ffi/api/ffi.h"

extern "C" {
XLA_FFI_Error* jax_fa4_decode_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_decode_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_decode_v1(XLA_FFI_CallFrame* call_frame);
}
