// The arguments of compiled kernels, kind by kind of kernel.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/cuda_types.h"

namespace jax_fa4 {

// The arguments of compiled kernels, in the order that their entry points take them. This is the
// ABI that jax_fa4/aot/signatures.py states for the compiler; tests/aot compares the two.
#define JAX_FA4_FORWARD_ARGUMENTS(X) \
  X(void*, q)                        \
  X(void*, k)                        \
  X(void*, v)                        \
  X(void*, out)                      \
  X(void*, lse)                      \
  X(int32_t, batch)                  \
  X(int32_t, seqlen_q)               \
  X(int32_t, seqlen_k)               \
  X(int32_t, heads_q)                \
  X(int32_t, heads_kv)               \
  X(int32_t, head_dim)               \
  X(int32_t, head_dim_v)             \
  X(float, softmax_scale)            \
  X(int32_t, band_lower)             \
  X(int32_t, band_upper)             \
  X(int32_t, sm_count)               \
  X(CudaStream, stream)

// Of 8-bit elements.
#define JAX_FA4_FORWARD_FP8_ARGUMENTS(X) \
  X(void*, q)                            \
  X(void*, k)                            \
  X(void*, v)                            \
  X(void*, q_descale)                    \
  X(void*, k_descale)                    \
  X(void*, v_descale)                    \
  X(void*, out)                          \
  X(void*, lse)                          \
  X(int32_t, batch)                      \
  X(int32_t, seqlen_q)                   \
  X(int32_t, seqlen_k)                   \
  X(int32_t, heads_q)                    \
  X(int32_t, heads_kv)                   \
  X(int32_t, head_dim)                   \
  X(int32_t, head_dim_v)                 \
  X(float, softmax_scale)                \
  X(int32_t, band_lower)                 \
  X(int32_t, band_upper)                 \
  X(int32_t, sm_count)                   \
  X(CudaStream, stream)

// With what each row may see, and sinks.
#define JAX_FA4_FORWARD_BOUNDED_ARGUMENTS(X) \
  X(void*, q)                                \
  X(void*, k)                                \
  X(void*, v)                                \
  X(void*, row_bounds)                       \
  X(void*, query_ids)                        \
  X(void*, key_ids)                          \
  X(void*, query_groups)                     \
  X(void*, sinks)                            \
  X(void*, out)                              \
  X(void*, lse)                              \
  X(int32_t, batch)                          \
  X(int32_t, seqlen_q)                       \
  X(int32_t, seqlen_k)                       \
  X(int32_t, heads_q)                        \
  X(int32_t, heads_kv)                       \
  X(int32_t, head_dim)                       \
  X(int32_t, head_dim_v)                     \
  X(float, softmax_scale)                    \
  X(float, softcap)                          \
  X(int32_t, band_lower)                     \
  X(int32_t, band_upper)                     \
  X(int32_t, sm_count)                       \
  X(CudaStream, stream)

#define JAX_FA4_BACKWARD_PREPROCESS_ARGUMENTS(X) \
  X(void*, out)                                  \
  X(void*, dout)                                 \
  X(void*, lse)                                  \
  X(void*, dlse)                                 \
  X(void*, delta)                                \
  X(void*, lse_log2)                             \
  X(void*, dq_accum)                             \
  X(void*, semaphores)                           \
  X(int32_t, batch)                              \
  X(int32_t, seqlen_q)                           \
  X(int32_t, seqlen_q_padded)                    \
  X(int32_t, heads_q)                            \
  X(int32_t, head_dim_v)                         \
  X(int32_t, dq_tile_width)                      \
  X(CudaStream, stream)

#define JAX_FA4_BACKWARD_ARGUMENTS(X) \
  X(void*, q)                         \
  X(void*, k)                         \
  X(void*, v)                         \
  X(void*, dout)                      \
  X(void*, lse_log2)                  \
  X(void*, delta)                     \
  X(void*, dq_accum)                  \
  X(void*, dk)                        \
  X(void*, dv)                        \
  X(void*, semaphores)                \
  X(int32_t, batch)                   \
  X(int32_t, seqlen_q)                \
  X(int32_t, seqlen_k)                \
  X(int32_t, heads_q)                 \
  X(int32_t, heads_kv)                \
  X(int32_t, head_dim)                \
  X(int32_t, head_dim_v)              \
  X(float, softmax_scale)             \
  X(int32_t, band_lower)              \
  X(int32_t, band_upper)              \
  X(int32_t, sm_count)                \
  X(CudaStream, stream)

#define JAX_FA4_BACKWARD_BOUNDED_ARGUMENTS(X) \
  X(void*, q)                                 \
  X(void*, k)                                 \
  X(void*, v)                                 \
  X(void*, dout)                              \
  X(void*, row_bounds)                        \
  X(void*, query_ids)                         \
  X(void*, key_ids)                           \
  X(void*, query_groups)                      \
  X(void*, key_groups)                        \
  X(void*, lse_log2)                          \
  X(void*, delta)                             \
  X(void*, dq_accum)                          \
  X(void*, dk)                                \
  X(void*, dv)                                \
  X(void*, semaphores)                        \
  X(int32_t, batch)                           \
  X(int32_t, seqlen_q)                        \
  X(int32_t, seqlen_k)                        \
  X(int32_t, heads_q)                         \
  X(int32_t, heads_kv)                        \
  X(int32_t, head_dim)                        \
  X(int32_t, head_dim_v)                      \
  X(float, softmax_scale)                     \
  X(float, softcap)                           \
  X(int32_t, band_lower)                      \
  X(int32_t, band_upper)                      \
  X(int32_t, sm_count)                        \
  X(CudaStream, stream)

#define JAX_FA4_BACKWARD_POSTPROCESS_ARGUMENTS(X) \
  X(void*, dq_accum)                              \
  X(void*, dq)                                    \
  X(int32_t, batch)                               \
  X(int32_t, seqlen_q)                            \
  X(int32_t, seqlen_q_padded)                     \
  X(int32_t, heads_q)                             \
  X(int32_t, head_dim)                            \
  X(int32_t, dq_tile_width)                       \
  X(float, softmax_scale)                         \
  X(CudaStream, stream)

// Few queries against a cache in pages, and the merger of its parts.
#define JAX_FA4_DECODE_ARGUMENTS(X) \
  X(void*, q)                       \
  X(void*, k)                       \
  X(void*, v)                       \
  X(void*, page_table)              \
  X(void*, lengths)                 \
  X(void*, sinks)                   \
  X(void*, out)                     \
  X(void*, lse)                     \
  X(void*, out_partial)             \
  X(void*, lse_partial)             \
  X(int32_t, batch)                 \
  X(int32_t, seqlen_q)              \
  X(int32_t, heads_q)               \
  X(int32_t, heads_kv)              \
  X(int32_t, head_dim)              \
  X(int32_t, head_dim_v)            \
  X(int32_t, num_pages)             \
  X(int32_t, page_size)             \
  X(int32_t, pages_per_sequence)    \
  X(int32_t, num_splits)            \
  X(float, softmax_scale)           \
  X(float, softcap)                 \
  X(int32_t, band_lower)            \
  X(int32_t, band_upper)            \
  X(CudaStream, stream)

#define JAX_FA4_DECODE_COMBINE_ARGUMENTS(X) \
  X(void*, out_partial)                     \
  X(void*, lse_partial)                     \
  X(void*, lengths)                         \
  X(void*, sinks)                           \
  X(void*, out)                             \
  X(void*, lse)                             \
  X(int32_t, batch)                         \
  X(int32_t, seqlen_q)                      \
  X(int32_t, heads_q)                       \
  X(int32_t, head_dim_v)                    \
  X(int32_t, capacity)                      \
  X(int32_t, num_splits)                    \
  X(int32_t, band_lower)                    \
  X(int32_t, band_upper)                    \
  X(CudaStream, stream)

#define JAX_FA4_FIELD(type, name) type name;
#define JAX_FA4_ADDRESS(type, name) &name,
// A kernel's arguments, and where they lie, in its order.
#define JAX_FA4_STRUCT(Name, LIST)                                     \
  struct Name {                                                        \
    LIST(JAX_FA4_FIELD)                                                \
    std::vector<void*> Addresses() { return {LIST(JAX_FA4_ADDRESS)}; } \
  };

JAX_FA4_STRUCT(ForwardArguments, JAX_FA4_FORWARD_ARGUMENTS)
JAX_FA4_STRUCT(ForwardFp8Arguments, JAX_FA4_FORWARD_FP8_ARGUMENTS)
JAX_FA4_STRUCT(ForwardBoundedArguments, JAX_FA4_FORWARD_BOUNDED_ARGUMENTS)
JAX_FA4_STRUCT(BackwardPreprocessArguments, JAX_FA4_BACKWARD_PREPROCESS_ARGUMENTS)
JAX_FA4_STRUCT(BackwardArguments, JAX_FA4_BACKWARD_ARGUMENTS)
JAX_FA4_STRUCT(BackwardBoundedArguments, JAX_FA4_BACKWARD_BOUNDED_ARGUMENTS)
JAX_FA4_STRUCT(BackwardPostprocessArguments, JAX_FA4_BACKWARD_POSTPROCESS_ARGUMENTS)
JAX_FA4_STRUCT(DecodeArguments, JAX_FA4_DECODE_ARGUMENTS)
JAX_FA4_STRUCT(DecodeCombineArguments, JAX_FA4_DECODE_COMBINE_ARGUMENTS)

#undef JAX_FA4_STRUCT
#undef JAX_FA4_FIELD
#undef JAX_FA4_ADDRESS

}  // namespace jax_fa4
