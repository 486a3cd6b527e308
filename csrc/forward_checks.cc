#include "forward_checks.h"

#include "attention_checks.h"

namespace jax_fa4 {
namespace {

// What all forwards ask of lengths and head dims; a row of q, k and v is a multiple of `step`.
ffi::Error CheckShapes(std::string_view name, const ForwardBuffers& buffers, int64_t step,
                       AttentionShape* shape) {
  const auto& [q, k, v, out, lse] = buffers;
  JAX_FA4_RETURN_IF_ERROR(CheckDType(name, lse, ffi::DataType::F32));
  JAX_FA4_RETURN_IF_ERROR(CheckQueryKeyValue(name, q, k, v, step, shape));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(name, out, {shape->batch, shape->seqlen_q, shape->heads_q, shape->head_dim_v},
                 "the same as q with the head_dim of v"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(name, lse, {shape->batch, shape->heads_q, shape->seqlen_q},
                                     "(batch, heads_q, seqlen_q)"));
  for (const Named* argument : {&q, &k, &v, &out, &lse}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(name, *argument));
  }
  return ffi::Error::Success();
}

ffi::Error CheckHalfPrecisionShapes(std::string_view name, const ForwardBuffers& buffers,
                                    AttentionShape* shape) {
  const auto& [q, k, v, out, lse] = buffers;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecisions(name, q, k, v));
  JAX_FA4_RETURN_IF_ERROR(CheckDType(name, out, q.buffer.element_type()));
  return CheckShapes(name, buffers, 8, shape);
}

}  // namespace

ffi::Error CheckBuffers(const ForwardBuffers& buffers) {
  AttentionShape shape;
  return CheckHalfPrecisionShapes(kForwardName, buffers, &shape);
}

ffi::Error CheckBuffers(const BoundedForwardBuffers& buffers) {
  constexpr std::string_view kName = kForwardBoundedName;
  const Named& sinks = buffers.sinks;
  AttentionShape shape;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecisionShapes(kName, buffers.forward, &shape));
  JAX_FA4_RETURN_IF_ERROR(CheckBounds(kName, buffers.bounds, shape));
  JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, sinks, ffi::DataType::F32));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, sinks, {shape.heads_q}, "one for each head of q"));
  return CheckAligned(kName, sinks);
}

ffi::Error CheckBuffers(const Fp8Buffers& buffers) {
  const auto& [q, k, v, out, lse] = buffers.forward;
  JAX_FA4_RETURN_IF_ERROR(CheckE4m3(kForwardFp8Name, q, k, v));
  JAX_FA4_RETURN_IF_ERROR(CheckDType(kForwardFp8Name, out, ffi::DataType::BF16));
  AttentionShape shape;
  JAX_FA4_RETURN_IF_ERROR(CheckShapes(kForwardFp8Name, buffers.forward, 16, &shape));
  for (const Named* argument : {&buffers.q_descale, &buffers.k_descale, &buffers.v_descale}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kForwardFp8Name, *argument, ffi::DataType::F32));
    JAX_FA4_RETURN_IF_ERROR(CheckShape(kForwardFp8Name, *argument, {shape.batch, shape.heads_kv},
                                       "(batch, heads of k)"));
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(kForwardFp8Name, *argument));
  }
  return ffi::Error::Success();
}

}  // namespace jax_fa4
