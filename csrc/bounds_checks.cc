#include "bounds_checks.h"

#include <cmath>

namespace jax_fa4 {
namespace {

constexpr int64_t kGroup = 64;  // rows, or keys, that one entry of a summary is about

int64_t Groups(int64_t length) { return (length + kGroup - 1) / kGroup; }

ffi::Error CheckInts(std::string_view operation, const Named& argument,
                     std::initializer_list<int64_t> shape, std::string_view reason) {
  JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, argument, ffi::DataType::S32));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, argument, shape, reason));
  return CheckAligned(operation, argument);
}

}  // namespace

ffi::Error CheckBounds(std::string_view operation, const BoundsBuffers& bounds,
                       const AttentionShape& shape) {
  const auto& [row_bounds, query_ids, key_ids, query_groups] = bounds;
  JAX_FA4_RETURN_IF_ERROR(
      CheckInts(operation, row_bounds, {shape.batch, shape.seqlen_q, 2}, "(batch, seqlen_q, 2)"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckInts(operation, query_ids, {shape.batch, shape.seqlen_q}, "(batch, seqlen_q)"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckInts(operation, key_ids, {shape.batch, shape.seqlen_k}, "(batch, seqlen_k)"));
  return CheckInts(operation, query_groups, {shape.batch, Groups(shape.seqlen_q), 4},
                   "(batch, one for each 64 rows of q, 4)");
}

ffi::Error CheckKeyGroups(std::string_view operation, const Named& key_groups,
                          const AttentionShape& shape) {
  return CheckInts(operation, key_groups, {shape.batch, Groups(shape.seqlen_k), 2},
                   "(batch, one for each 64 rows of k, 2)");
}

AttentionScalars BoundedScalars(float softmax_scale) {
  return {softmax_scale, -kUnbounded, kUnbounded};
}

ffi::Error ReadBoundedScalars(std::string_view operation, const ffi::Dictionary& attributes,
                              AttentionScalars* scalars, float* softcap) {
  *scalars = BoundedScalars(0.0f);
  JAX_FA4_RETURN_IF_ERROR(
      ReadAttribute(operation, attributes, "softmax_scale", &scalars->softmax_scale));
  return ReadAttribute(operation, attributes, "softcap", softcap);
}

ffi::Error CheckSoftcap(std::string_view operation, float softcap,
                        const std::vector<const Variant*>& variants) {
  if (!std::isfinite(softcap) || softcap < 0.0f) {
    return InvalidArgument(operation, "softcap ", softcap,
                           ": must be finite, and greater than 0, or 0 for none");
  }
  for (const Variant* variant : variants) {
    if (variant->softcap == (softcap > 0.0f)) continue;
    return InvalidArgument(operation, "softcap ", softcap, ": variant ", variant->name,
                           variant->softcap ? " caps scores, and needs one greater than 0"
                                            : " caps no scores, and needs 0");
  }
  return ffi::Error::Success();
}

}  // namespace jax_fa4
