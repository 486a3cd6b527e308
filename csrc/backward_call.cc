#include "backward_call.h"

namespace jax_fa4 {

ffi::Error CheckBackwardBuffers(std::string_view operation, const BackwardBuffers& buffers,
                                AttentionShape* shape) {
  const auto& [q, k, v, preprocess, dq, dk, dv] = buffers;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecisions(operation, q, k, v));
  JAX_FA4_RETURN_IF_ERROR(CheckQueryKeyValue(operation, q, k, v, 8, shape));
  const auto& [batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v] = *shape;
  JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, preprocess.out, q.buffer.element_type()));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, preprocess.out,
                                     {batch, seqlen_q, heads_q, head_dim_v},
                                     "the same as q with the head_dim of v"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckPreprocess(operation, preprocess, {batch, seqlen_q, heads_q, head_dim_v}));
  for (const Named* gradient : {&dq, &dk, &dv}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, *gradient, q.buffer.element_type()));
  }
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(operation, dq, {batch, seqlen_q, heads_q, head_dim}, "the same as q"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(operation, dk, {batch, seqlen_k, heads_kv, head_dim}, "the same as k"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(operation, dv, {batch, seqlen_k, heads_kv, head_dim_v}, "the same as v"));
  for (const Named* argument : {&q, &k, &v, &dq, &dk, &dv}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(operation, *argument));
  }
  return ffi::Error::Success();
}

ffi::Error CheckBackwardKernels(std::string_view operation,
                                const std::vector<const Variant*>& variants,
                                const Named& dq_accum) {
  for (const Variant* variant : variants) {
    if (dq_accum.buffer.dimensions()[3] < variant->head_dim) {
      return InvalidArgument(operation, Describe(dq_accum), ": variant ", variant->name, " needs ",
                             variant->head_dim, " columns");
    }
    const Variant* helper = nullptr;
    for (VariantKind kind : {VariantKind::kBackwardPreprocess, VariantKind::kBackwardPostprocess}) {
      JAX_FA4_RETURN_IF_ERROR(FindHelper(operation, *variant, kind, &helper));
    }
  }
  return ffi::Error::Success();
}

BackwardPostprocessArguments MakePostprocessArguments(const BackwardBuffers& buffers,
                                                      const AttentionScalars& scalars) {
  const auto query = buffers.q.buffer.dimensions();
  const Named& dq_accum = buffers.preprocess.scratch.dq_accum;
  BackwardPostprocessArguments arguments{};
  arguments.dq_accum = dq_accum.buffer.untyped_data();
  arguments.dq = buffers.dq.buffer.untyped_data();
  arguments.batch = static_cast<int32_t>(query[0]);
  arguments.seqlen_q = static_cast<int32_t>(query[1]);
  arguments.seqlen_q_padded = static_cast<int32_t>(dq_accum.buffer.dimensions()[2]);
  arguments.heads_q = static_cast<int32_t>(query[2]);
  arguments.head_dim = static_cast<int32_t>(query[3]);
  arguments.softmax_scale = scalars.softmax_scale;
  return arguments;
}

bool WritesDq(const Variant& variant) {
  return variant.name.find("_serial") != std::string_view::npos;
}

BackwardBuffers MakeBackwardBuffers(const std::vector<Named>& arguments,
                                    const std::vector<Named>& results) {
  const auto& in = arguments;
  const auto& out = results;
  const BackwardScratch scratch{out[3], out[4], out[5], out[6]};
  const PreprocessBuffers preprocess{in[3], in[4], in[5], in[6], scratch};
  return {in[0], in[1], in[2], preprocess, out[0], out[1], out[2]};
}

ffi::Error NameBackwardResults(std::string_view operation, const ffi::RemainingRets& results,
                               std::vector<Named>* named) {
  return NameResults(operation, results,
                     {"dq", "dk", "dv", "delta", "lse_log2", "dq_accum", "semaphores"}, named);
}

}  // namespace jax_fa4
