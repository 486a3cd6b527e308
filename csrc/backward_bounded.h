// FFI target jax_fa4_bwd_bounded_v1: the backward of jax_fa4_fwd_bounded_v1, three kernels as
// jax_fa4_bwd_v1 (backward.h).
//   the arguments of jax_fa4_bwd_v1, then row_bounds, query_ids, key_ids, query_groups, key_groups
//   (bounds_checks.h); its results
//   attributes: variants (str), softmax_scale (f32), softcap (f32)
// Sinks are none of the arguments: lse contains them. On the CPU, jax_fa4_emulated_bwd_bounded_v1:
// the same and the emulator's attributes (emulated_launch.h).
#pragma once

#include "xla/ffi/api/ffi.h"

extern "C" {
XLA_FFI_Error* jax_fa4_bwd_bounded_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_bwd_bounded_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_bwd_bounded_v1(XLA_FFI_CallFrame* call_frame);
}
