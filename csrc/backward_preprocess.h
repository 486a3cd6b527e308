// The first kernel of the backward, delta = rowsum(dout * out) - dlse and clean scratch; by itself
// it is the FFI target jax_fa4_bwd_preprocess_v1.
//   out and dout (B, Sq, Hq, Dv), bf16 or fp16; lse and dlse (B, Hq, Sq) fp32
//   -> delta and lse_log2 (B, Hq, Sp) fp32, Sp = Sq rounded up to 128
//      dq_accum (B, Hq, Sp, width) fp32, zeros; semaphores (B, Hq, Sp / 64) int32, zeros
//   attribute: variants (str)
// lse_log2 is lse * log2(e), and +inf where lse is -inf and in the padding, so that exp2 of a score
// less it is 0 there; delta is 0 in the padding. On sm_90, whose main kernels have tiles of 64
// queries, all of these are left as they were past the last tile with a query. On the CPU,
// jax_fa4_emulated_bwd_preprocess_v1: the same and the emulator's attributes (emulated_launch.h).
#pragma once

#include "checks.h"
#include "launch.h"
#include "xla/ffi/api/ffi.h"

namespace jax_fa4 {

// What the backward's kernels leave for one another. variants/workspace.py states the same sizes.
struct BackwardScratch {
  Named delta, lse_log2, dq_accum, semaphores;
};

struct PreprocessBuffers {
  Named out, dout, lse, dlse;
  BackwardScratch scratch;
};

// Each a checked buffer of a backward of queries (B, Sq, Hq, D) and out of head dim Dv.
struct PreprocessShape {
  int64_t batch, seqlen_q, heads_q, head_dim_v;
};
ffi::Error CheckPreprocess(std::string_view operation, const PreprocessBuffers& buffers,
                           const PreprocessShape& shape);

BackwardPreprocessArguments MakePreprocessArguments(const PreprocessBuffers& buffers);
KernelMemory PreprocessMemory(const PreprocessBuffers& buffers);

}  // namespace jax_fa4

extern "C" {
XLA_FFI_Error* jax_fa4_bwd_preprocess_v1(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_bwd_preprocess_v1_initialize(XLA_FFI_CallFrame* call_frame);
XLA_FFI_Error* jax_fa4_emulated_bwd_preprocess_v1(XLA_FFI_CallFrame* call_frame);
}
