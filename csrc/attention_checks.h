// Checks that the forward and the backward share.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "checks.h"
#include "variants.h"

namespace jax_fa4 {

// Bounds and lengths stay within this, so that their sums fit in 32 bits.
inline constexpr int32_t kUnbounded = int32_t{1} << 30;

// The sizes of an attention call.
struct AttentionShape {
  int64_t batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v;
};

// Three arrays of half precision, or of 8-bit elements, all alike.
ffi::Error CheckHalfPrecisions(std::string_view operation, const Named& q, const Named& k,
                               const Named& v);
ffi::Error CheckE4m3(std::string_view operation, const Named& q, const Named& k, const Named& v);

// Three arrays of shapes that fit each other, of lengths below 2**30; rows are multiples of `step`.
ffi::Error CheckQueryKeyValue(std::string_view operation, const Named& q, const Named& k,
                              const Named& v, int64_t step, AttentionShape* shape);

// What a call knows beside its arrays.
struct AttentionScalars {
  float softmax_scale;
  int32_t band_lower;
  int32_t band_upper;
};
ffi::Error ReadScalars(std::string_view operation, const ffi::Dictionary& attributes,
                       AttentionScalars* scalars);
ffi::Error CheckScalars(std::string_view operation, const AttentionScalars& scalars);

// Whether each of the variants takes the arrays' type and head dims.
ffi::Error CheckVariants(std::string_view operation, const std::vector<const Variant*>& variants,
                         const Named& q, const Named& v);

}  // namespace jax_fa4
