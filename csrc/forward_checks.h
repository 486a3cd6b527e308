// What a call of a forward target must have as its buffers.
#pragma once

#include <string_view>

#include "bounds_checks.h"
#include "checks.h"

namespace jax_fa4 {

inline constexpr std::string_view kForwardName = "jax_fa4_fwd_v1";
inline constexpr std::string_view kForwardFp8Name = "jax_fa4_fwd_fp8_v1";
inline constexpr std::string_view kForwardBoundedName = "jax_fa4_fwd_bounded_v1";

struct ForwardBuffers {
  Named q, k, v, out, lse;
};

struct BoundedForwardBuffers {
  ForwardBuffers forward;
  BoundsBuffers bounds;
  Named sinks;
};

struct Fp8Buffers {
  ForwardBuffers forward;
  Named q_descale, k_descale, v_descale;
};

ffi::Error CheckBuffers(const ForwardBuffers& buffers);
ffi::Error CheckBuffers(const Fp8Buffers& buffers);
ffi::Error CheckBuffers(const BoundedForwardBuffers& buffers);

}  // namespace jax_fa4
