// From an FFI call to a kernel on a stream: choose the variant for the device, load it once per
// device, launch it.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "status.h"
#include "variants.h"

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

#define JAX_FA4_FIELD(type, name) type name;
#define JAX_FA4_ADDRESS(type, name) &name,

struct ForwardArguments {
  JAX_FA4_FORWARD_ARGUMENTS(JAX_FA4_FIELD)
  std::vector<void*> Addresses() { return {JAX_FA4_FORWARD_ARGUMENTS(JAX_FA4_ADDRESS)}; }
};

struct ForwardFp8Arguments {
  JAX_FA4_FORWARD_FP8_ARGUMENTS(JAX_FA4_FIELD)
  std::vector<void*> Addresses() { return {JAX_FA4_FORWARD_FP8_ARGUMENTS(JAX_FA4_ADDRESS)}; }
};

struct BackwardPreprocessArguments {
  JAX_FA4_BACKWARD_PREPROCESS_ARGUMENTS(JAX_FA4_FIELD)
  std::vector<void*> Addresses() {
    return {JAX_FA4_BACKWARD_PREPROCESS_ARGUMENTS(JAX_FA4_ADDRESS)};
  }
};

struct BackwardArguments {
  JAX_FA4_BACKWARD_ARGUMENTS(JAX_FA4_FIELD)
  std::vector<void*> Addresses() { return {JAX_FA4_BACKWARD_ARGUMENTS(JAX_FA4_ADDRESS)}; }
};

struct BackwardPostprocessArguments {
  JAX_FA4_BACKWARD_POSTPROCESS_ARGUMENTS(JAX_FA4_FIELD)
  std::vector<void*> Addresses() {
    return {JAX_FA4_BACKWARD_POSTPROCESS_ARGUMENTS(JAX_FA4_ADDRESS)};
  }
};

#undef JAX_FA4_FIELD
#undef JAX_FA4_ADDRESS

// What every handler of one operation knows about its call.
struct Operation {
  std::string_view name;      // the FFI target, "jax_fa4_fwd_v1"
  VariantKind kind;           // of kernels it may run
  std::string_view variants;  // the attribute: space separated names, at most one per architecture
};

// The variants named by `operation`, or which of the names is wrong. Touches no CUDA.
ffi::Error FindVariants(const Operation& operation, std::vector<const Variant*>* found);

// Arguments of an entry point whose values only the launch knows; null if the kernel takes none.
struct LaunchFields {
  CudaStream* stream;
  int32_t* sm_count = nullptr;
};

// Launches the one of `variants` for the stream's device, loading it if Initialize did not.
// `arguments` are the addresses of the entry point's arguments, in order; those that
// `fields` points to are filled in here.
ffi::Error Launch(const Operation& operation, const std::vector<const Variant*>& variants,
                  const ffi::Context& context, std::vector<void*> arguments, LaunchFields fields);

// The initialize stage of every operation: loads the kernel for the device outside the launch.
ffi::Error Initialize(std::string_view operation, VariantKind kind, const ffi::Context& context,
                      const ffi::Dictionary& attributes);

}  // namespace jax_fa4
