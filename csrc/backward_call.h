// A call of a backward target, from named buffers to a plan of its launches.
#pragma once

#include <string_view>
#include <vector>

#include "attention_checks.h"
#include "backward_preprocess.h"
#include "launch.h"

namespace jax_fa4 {

struct BackwardBuffers {
  Named q, k, v;
  PreprocessBuffers preprocess;  // out, dout, lse, dlse, scratch
  Named dq, dk, dv;
};

// Of q, k, v, out, dout, lse, dlse, whatever follows, and the results of NameBackwardResults.
BackwardBuffers MakeBackwardBuffers(const std::vector<Named>& arguments,
                                    const std::vector<Named>& results);
ffi::Error NameBackwardResults(std::string_view operation, const ffi::RemainingRets& results,
                               std::vector<Named>* named);

ffi::Error CheckBackwardBuffers(std::string_view operation, const BackwardBuffers& buffers,
                                AttentionShape* shape);

// Whether dq_accum holds the tiles of every variant, and each has its two helpers.
ffi::Error CheckBackwardKernels(std::string_view operation,
                                const std::vector<const Variant*>& variants, const Named& dq_accum);

// The arguments that all main kernels have.
template <typename Arguments>
void FillBackward(const BackwardBuffers& buffers, const AttentionScalars& scalars,
                  Arguments* arguments) {
  const auto query = buffers.q.buffer.dimensions();
  const auto value = buffers.v.buffer.dimensions();
  const BackwardScratch& scratch = buffers.preprocess.scratch;
  arguments->q = buffers.q.buffer.untyped_data();
  arguments->k = buffers.k.buffer.untyped_data();
  arguments->v = buffers.v.buffer.untyped_data();
  arguments->dout = buffers.preprocess.dout.buffer.untyped_data();
  arguments->lse_log2 = scratch.lse_log2.buffer.untyped_data();
  arguments->delta = scratch.delta.buffer.untyped_data();
  arguments->dq_accum = scratch.dq_accum.buffer.untyped_data();
  arguments->dk = buffers.dk.buffer.untyped_data();
  arguments->dv = buffers.dv.buffer.untyped_data();
  arguments->semaphores = scratch.semaphores.buffer.untyped_data();
  arguments->batch = static_cast<int32_t>(query[0]);
  arguments->seqlen_q = static_cast<int32_t>(query[1]);
  arguments->seqlen_k = static_cast<int32_t>(value[1]);
  arguments->heads_q = static_cast<int32_t>(query[2]);
  arguments->heads_kv = static_cast<int32_t>(value[2]);
  arguments->head_dim = static_cast<int32_t>(query[3]);
  arguments->head_dim_v = static_cast<int32_t>(value[3]);
  arguments->softmax_scale = scalars.softmax_scale;
  arguments->band_lower = scalars.band_lower;
  arguments->band_upper = scalars.band_upper;
}

BackwardPostprocessArguments MakePostprocessArguments(const BackwardBuffers& buffers,
                                                      const AttentionScalars& scalars);

// Whether a main kernel writes dq itself. It takes dq in the place of semaphores, which it does not
// use; dq_accum is scratch of its own, without zeros; and no kernel comes after it.
bool WritesDq(const Variant& variant);

// A call, whatever is to run it. `Arguments` are the main kernel's.
template <typename Arguments>
class BackwardCall {
 public:
  // Of checked buffers, which outlive the call: checks the scalars and the operation's variants.
  ffi::Error Prepare(const Operation& operation, const BackwardBuffers& buffers,
                     const AttentionScalars& scalars) {
    const std::string_view name = operation.name;
    JAX_FA4_RETURN_IF_ERROR(CheckScalars(name, scalars));
    operation_ = operation;
    JAX_FA4_RETURN_IF_ERROR(FindVariants(operation_, &candidates_));
    JAX_FA4_RETURN_IF_ERROR(CheckVariants(name, candidates_, buffers.q, buffers.v));
    JAX_FA4_RETURN_IF_ERROR(
        CheckBackwardKernels(name, candidates_, buffers.preprocess.scratch.dq_accum));
    buffers_ = &buffers;
    preprocess_ = MakePreprocessArguments(buffers.preprocess);
    FillBackward(buffers, scalars, &main_);
    postprocess_ = MakePostprocessArguments(buffers, scalars);
    return ffi::Error::Success();
  }

  const Operation& operation() const { return operation_; }
  const std::vector<const Variant*>& candidates() const { return candidates_; }
  Arguments* main() { return &main_; }

  // What the main kernel reads beside the others' arrays.
  void AddReads(const std::vector<Named>& reads) { reads_ = reads; }

  KernelPlan Plan() {
    return [this](const Variant& variant) {
      if (WritesDq(variant)) return PlanOfTwo(variant);
      // dq_accum may be wider, for a variant of another device: it is used at this one's width.
      preprocess_.dq_tile_width = postprocess_.dq_tile_width = variant.head_dim;
      const Variant* first = nullptr;
      const Variant* last = nullptr;
      // Both exist: CheckBackwardKernels.
      (void)FindHelper(operation_.name, variant, VariantKind::kBackwardPreprocess, &first);
      (void)FindHelper(operation_.name, variant, VariantKind::kBackwardPostprocess, &last);
      const auto& [q, k, v, preprocess, dq, dk, dv] = *buffers_;
      const BackwardScratch& scratch = preprocess.scratch;
      return std::vector<KernelLaunch>{
          {first, preprocess_.Addresses(), {&preprocess_.stream}, PreprocessMemory(preprocess)},
          {&variant,
           main_.Addresses(),
           {&main_.stream, &main_.sm_count},
           {Reads(), {dk, dv}, {scratch.dq_accum, scratch.semaphores}}},
          {last, postprocess_.Addresses(), {&postprocess_.stream}, {{scratch.dq_accum}, {dq}, {}}},
      };
    };
  }

 private:
  std::vector<Named> Reads() const {
    const PreprocessBuffers& preprocess = buffers_->preprocess;
    const BackwardScratch& scratch = preprocess.scratch;
    std::vector<Named> reads{buffers_->q,     buffers_->k,   buffers_->v,
                             preprocess.dout, scratch.delta, scratch.lse_log2};
    reads.insert(reads.end(), reads_.begin(), reads_.end());
    return reads;
  }

  // Of a main kernel that writes dq.
  std::vector<KernelLaunch> PlanOfTwo(const Variant& variant) {
    const auto& [q, k, v, preprocess, dq, dk, dv] = *buffers_;
    const BackwardScratch& scratch = preprocess.scratch;
    const Variant* first = nullptr;
    (void)FindHelper(operation_.name, variant, VariantKind::kBackwardPreprocess, &first);
    preprocess_.dq_tile_width = 0;
    main_.semaphores = dq.buffer.untyped_data();
    KernelMemory before = PreprocessMemory(preprocess);
    before.writes = {scratch.delta, scratch.lse_log2, scratch.semaphores};
    return {
        {first, preprocess_.Addresses(), {&preprocess_.stream}, before},
        {&variant,
         main_.Addresses(),
         {&main_.stream, &main_.sm_count},
         {Reads(), {dq, dk, dv}, {scratch.dq_accum}}},
    };
  }

  Operation operation_;
  std::vector<const Variant*> candidates_;
  const BackwardBuffers* buffers_ = nullptr;
  BackwardPreprocessArguments preprocess_{};
  Arguments main_{};
  std::vector<Named> reads_;
  BackwardPostprocessArguments postprocess_{};
};

}  // namespace jax_fa4
