// What a call of a forward target must be: its buffers, numbers and kernels.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "checks.h"
#include "variants.h"

namespace jax_fa4 {

inline constexpr std::string_view kForwardName = "jax_fa4_fwd_v1";
inline constexpr std::string_view kForwardFp8Name = "jax_fa4_fwd_fp8_v1";

struct ForwardBuffers {
  Named q, k, v, out, lse;
};

struct Fp8Buffers {
  ForwardBuffers forward;
  Named q_descale, k_descale, v_descale;
};

struct ForwardScalars {
  float softmax_scale;
  int32_t band_lower;
  int32_t band_upper;
};

ffi::Error CheckBuffers(const ForwardBuffers& buffers);
ffi::Error CheckBuffers(const Fp8Buffers& buffers);
ffi::Error CheckScalars(std::string_view name, const ForwardScalars& scalars);
ffi::Error CheckVariants(std::string_view name, const std::vector<const Variant*>& variants,
                         const Named& q, const Named& v);

}  // namespace jax_fa4
