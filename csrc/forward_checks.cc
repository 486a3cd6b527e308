#include "forward_checks.h"

#include <cmath>

namespace jax_fa4 {
namespace {

// Bounds and lengths stay within this, so that their sums fit in 32 bits.
constexpr int64_t kUnbounded = int64_t{1} << 30;

// What all forwards ask of lengths and head dims; a row of q, k and v is a multiple of `step`.
ffi::Error CheckShapes(std::string_view name, const ForwardBuffers& buffers, int64_t step) {
  const auto& [q, k, v, out, lse] = buffers;
  JAX_FA4_RETURN_IF_ERROR(CheckDType(name, lse, ffi::DataType::F32));
  for (const Named* argument : {&q, &k, &v}) {
    JAX_FA4_RETURN_IF_ERROR(CheckRank(name, *argument, 4, "(batch, seqlen, heads, head_dim)"));
  }
  const auto query = q.buffer.dimensions();
  const auto key = k.buffer.dimensions();
  const int64_t batch = query[0], seqlen_q = query[1], heads_q = query[2], head_dim = query[3];
  const int64_t head_dim_v = v.buffer.dimensions()[3];
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(name, "head_dim", head_dim, step));
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(name, "head_dim_v", head_dim_v, step));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(name, k, {batch, key[1], key[2], head_dim}, "batch and head_dim as in q"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(name, v, {batch, key[1], key[2], head_dim_v}, "the same as k but for head_dim"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(name, out, {batch, seqlen_q, heads_q, head_dim_v},
                                     "the same as q with the head_dim of v"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(name, lse, {batch, heads_q, seqlen_q}, "(batch, heads_q, seqlen_q)"));
  if (heads_q % key[2] != 0) {
    return InvalidArgument(name, Describe(q), ", ", Describe(k), ": the ", key[2],
                           " heads of k must divide the ", heads_q, " heads of q");
  }
  if (seqlen_q >= kUnbounded || key[1] >= kUnbounded) {
    return InvalidArgument(name, Describe(q), ", ", Describe(k),
                           ": sequence lengths must be less than 2**30");
  }
  for (const Named* argument : {&q, &k, &v, &out, &lse}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(name, *argument));
  }
  return ffi::Error::Success();
}

}  // namespace

ffi::Error CheckBuffers(const ForwardBuffers& buffers) {
  const Named& q = buffers.q;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecision(kForwardName, q));
  for (const Named* argument : {&buffers.k, &buffers.v, &buffers.out}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kForwardName, *argument, q.buffer.element_type()));
  }
  return CheckShapes(kForwardName, buffers, 8);
}

ffi::Error CheckBuffers(const Fp8Buffers& buffers) {
  const ForwardBuffers& forward = buffers.forward;
  for (const Named* argument : {&forward.q, &forward.k, &forward.v}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kForwardFp8Name, *argument, ffi::DataType::F8E4M3FN));
  }
  JAX_FA4_RETURN_IF_ERROR(CheckDType(kForwardFp8Name, forward.out, ffi::DataType::BF16));
  JAX_FA4_RETURN_IF_ERROR(CheckShapes(kForwardFp8Name, forward, 16));
  const auto key = forward.k.buffer.dimensions();
  for (const Named* argument : {&buffers.q_descale, &buffers.k_descale, &buffers.v_descale}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kForwardFp8Name, *argument, ffi::DataType::F32));
    JAX_FA4_RETURN_IF_ERROR(
        CheckShape(kForwardFp8Name, *argument, {key[0], key[2]}, "(batch, heads of k)"));
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(kForwardFp8Name, *argument));
  }
  return ffi::Error::Success();
}

ffi::Error CheckScalars(std::string_view name, const ForwardScalars& scalars) {
  const auto& [softmax_scale, band_lower, band_upper] = scalars;
  if (!std::isfinite(softmax_scale) || softmax_scale <= 0.0f) {
    return InvalidArgument(name, "softmax_scale ", softmax_scale,
                           ": must be finite and greater than 0");
  }
  if (band_lower < -kUnbounded || band_upper > kUnbounded || band_lower > band_upper) {
    return InvalidArgument(name, "band_lower ", band_lower, ", band_upper ", band_upper,
                           ": must satisfy -2**30 <= band_lower <= band_upper <= 2**30");
  }
  return ffi::Error::Success();
}

ffi::Error CheckVariants(std::string_view name, const std::vector<const Variant*>& variants,
                         const Named& q, const Named& v) {
  for (const Variant* variant : variants) {
    if (variant->dtype != DTypeName(q.buffer.element_type())) {
      return InvalidArgument(name, "variant ", variant->name, " does not take ", Describe(q));
    }
    if (variant->head_dim < q.buffer.dimensions()[3]) {
      return InvalidArgument(name, "variant ", variant->name, " takes head_dim up to ",
                             variant->head_dim, ", not ", Describe(q));
    }
    if (variant->head_dim_v < v.buffer.dimensions()[3]) {
      return InvalidArgument(name, "variant ", variant->name, " takes head_dim up to ",
                             variant->head_dim_v, " of v, not ", Describe(v));
    }
  }
  return ffi::Error::Success();
}

}  // namespace jax_fa4
