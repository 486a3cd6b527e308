// A call of a forward target, from checked buffers to a plan of its launch. `Arguments` are of
// kernel_arguments.h.
#pragma once

#include <vector>

#include "attention_checks.h"
#include "forward_checks.h"
#include "launch.h"

namespace jax_fa4 {

// The arguments that all forwards have.
template <typename Arguments>
void FillForward(const ForwardBuffers& buffers, const AttentionScalars& scalars,
                 Arguments* arguments) {
  const auto query = buffers.q.buffer.dimensions();
  const auto key = buffers.k.buffer.dimensions();
  arguments->q = buffers.q.buffer.untyped_data();
  arguments->k = buffers.k.buffer.untyped_data();
  arguments->v = buffers.v.buffer.untyped_data();
  arguments->out = buffers.out.buffer.untyped_data();
  arguments->lse = buffers.lse.buffer.untyped_data();
  arguments->batch = static_cast<int32_t>(query[0]);
  arguments->seqlen_q = static_cast<int32_t>(query[1]);
  arguments->seqlen_k = static_cast<int32_t>(key[1]);
  arguments->heads_q = static_cast<int32_t>(query[2]);
  arguments->heads_kv = static_cast<int32_t>(key[2]);
  arguments->head_dim = static_cast<int32_t>(query[3]);
  arguments->head_dim_v = static_cast<int32_t>(buffers.v.buffer.dimensions()[3]);
  arguments->softmax_scale = scalars.softmax_scale;
  arguments->band_lower = scalars.band_lower;
  arguments->band_upper = scalars.band_upper;
}

// A checked call, whatever is to run it.
template <typename Arguments>
struct ForwardCall {
  Operation operation;
  std::vector<const Variant*> candidates;
  Arguments arguments{};
  KernelMemory memory;
  KernelPlan Plan() {
    return [this](const Variant& variant) {
      const LaunchFields fields{&arguments.stream, &arguments.sm_count};
      return std::vector<KernelLaunch>{{&variant, arguments.Addresses(), fields, memory}};
    };
  }
};

// Checks what `Check...` of forward_checks.h left: the scalars, and the operation's variants.
template <typename Arguments>
ffi::Error PrepareForward(const ForwardBuffers& buffers, const AttentionScalars& scalars,
                          ForwardCall<Arguments>* call) {
  const Operation& operation = call->operation;
  JAX_FA4_RETURN_IF_ERROR(CheckScalars(operation.name, scalars));
  JAX_FA4_RETURN_IF_ERROR(FindVariants(operation, &call->candidates));
  JAX_FA4_RETURN_IF_ERROR(CheckVariants(operation.name, call->candidates, buffers.q, buffers.v));
  FillForward(buffers, scalars, &call->arguments);
  for (const Named* input : {&buffers.q, &buffers.k, &buffers.v}) {
    call->memory.reads.push_back(*input);
  }
  call->memory.writes = {buffers.out, buffers.lse};
  return ffi::Error::Success();
}

}  // namespace jax_fa4
