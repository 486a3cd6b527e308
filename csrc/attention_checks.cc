#include "attention_checks.h"

#include <cmath>

namespace jax_fa4 {
ffi::Error CheckHalfPrecisions(std::string_view operation, const Named& q, const Named& k,
                               const Named& v) {
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecision(operation, q));
  JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, k, q.buffer.element_type()));
  return CheckDType(operation, v, q.buffer.element_type());
}

ffi::Error CheckE4m3(std::string_view operation, const Named& q, const Named& k, const Named& v) {
  for (const Named* argument : {&q, &k, &v}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, *argument, ffi::DataType::F8E4M3FN));
  }
  return ffi::Error::Success();
}

ffi::Error CheckQueryKeyValue(std::string_view operation, const Named& q, const Named& k,
                              const Named& v, int64_t step, AttentionShape* shape) {
  for (const Named* argument : {&q, &k, &v}) {
    JAX_FA4_RETURN_IF_ERROR(CheckRank(operation, *argument, 4, "(batch, seqlen, heads, head_dim)"));
  }
  const auto query = q.buffer.dimensions();
  const auto key = k.buffer.dimensions();
  *shape = {query[0], query[1], key[1], query[2], key[2], query[3], v.buffer.dimensions()[3]};
  const auto& [batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v] = *shape;
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(operation, "head_dim", head_dim, step));
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(operation, "head_dim_v", head_dim_v, step));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, k, {batch, seqlen_k, heads_kv, head_dim},
                                     "batch and head_dim as in q"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, v, {batch, seqlen_k, heads_kv, head_dim_v},
                                     "the same as k but for head_dim"));
  if (heads_q % heads_kv != 0) {
    return InvalidArgument(operation, Describe(q), ", ", Describe(k), ": the ", heads_kv,
                           " heads of k must divide the ", heads_q, " heads of q");
  }
  if (seqlen_q >= kUnbounded || seqlen_k >= kUnbounded) {
    return InvalidArgument(operation, Describe(q), ", ", Describe(k),
                           ": sequence lengths must be less than 2**30");
  }
  return ffi::Error::Success();
}

ffi::Error ReadScalars(std::string_view operation, const ffi::Dictionary& attributes,
                       AttentionScalars* scalars) {
  JAX_FA4_RETURN_IF_ERROR(
      ReadAttribute(operation, attributes, "softmax_scale", &scalars->softmax_scale));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(operation, attributes, "band_lower", &scalars->band_lower));
  return ReadAttribute(operation, attributes, "band_upper", &scalars->band_upper);
}

ffi::Error CheckScalars(std::string_view operation, const AttentionScalars& scalars) {
  const auto& [softmax_scale, band_lower, band_upper] = scalars;
  if (!std::isfinite(softmax_scale) || softmax_scale <= 0.0f) {
    return InvalidArgument(operation, "softmax_scale ", softmax_scale,
                           ": must be finite and greater than 0");
  }
  if (band_lower < -kUnbounded || band_upper > kUnbounded || band_lower > band_upper) {
    return InvalidArgument(operation, "band_lower ", band_lower, ", band_upper ", band_upper,
                           ": must satisfy -2**30 <= band_lower <= band_upper <= 2**30");
  }
  return ffi::Error::Success();
}

ffi::Error CheckVariants(std::string_view operation, const std::vector<const Variant*>& variants,
                         const Named& q, const Named& v) {
  for (const Variant* variant : variants) {
    if (variant->dtype != DTypeName(q.buffer.element_type())) {
      return InvalidArgument(operation, "variant ", variant->name, " does not take ", Describe(q));
    }
    if (variant->head_dim < q.buffer.dimensions()[3]) {
      return InvalidArgument(operation, "variant ", variant->name, " takes head_dim up to ",
                             variant->head_dim, ", not ", Describe(q));
    }
    if (variant->head_dim_v < v.buffer.dimensions()[3]) {
      return InvalidArgument(operation, "variant ", variant->name, " takes head_dim up to ",
                             variant->head_dim_v, " of v, not ", Describe(v));
    }
  }
  return ffi::Error::Success();
}

}  // namespace jax_fa4
