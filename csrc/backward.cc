#include "backward.h"

#include <optional>

#include "attention_checks.h"
#include "backward_preprocess.h"
#include "emulated_launch.h"
#include "launch.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = "jax_fa4_bwd_v1";

struct BackwardBuffers {
  Named q, k, v;
  PreprocessBuffers preprocess;  // out, dout, lse, dlse, scratch
  Named dq, dk, dv;
};

ffi::Error CheckBuffers(const BackwardBuffers& buffers) {
  const auto& [q, k, v, preprocess, dq, dk, dv] = buffers;
  AttentionShape shape;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecisions(kName, q, k, v));
  JAX_FA4_RETURN_IF_ERROR(CheckQueryKeyValue(kName, q, k, v, 8, &shape));
  const auto& [batch, seqlen_q, seqlen_k, heads_q, heads_kv, head_dim, head_dim_v] = shape;
  JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, preprocess.out, q.buffer.element_type()));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, preprocess.out, {batch, seqlen_q, heads_q, head_dim_v},
                                     "the same as q with the head_dim of v"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckPreprocess(kName, preprocess, {batch, seqlen_q, heads_q, head_dim_v}));
  for (const Named* gradient : {&dq, &dk, &dv}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, *gradient, q.buffer.element_type()));
  }
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, dq, {batch, seqlen_q, heads_q, head_dim}, "the same as q"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, dk, {batch, seqlen_k, heads_kv, head_dim}, "the same as k"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, dv, {batch, seqlen_k, heads_kv, head_dim_v}, "the same as v"));
  for (const Named* argument : {&q, &k, &v, &dq, &dk, &dv}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(kName, *argument));
  }
  return ffi::Error::Success();
}

// Whether dq_accum holds the tiles of every variant, and each has its two helpers.
ffi::Error CheckKernels(const std::vector<const Variant*>& variants, const Named& dq_accum) {
  for (const Variant* variant : variants) {
    if (dq_accum.buffer.dimensions()[3] < variant->head_dim) {
      return InvalidArgument(kName, Describe(dq_accum), ": variant ", variant->name, " needs ",
                             variant->head_dim, " columns");
    }
    const Variant* helper = nullptr;
    for (VariantKind kind : {VariantKind::kBackwardPreprocess, VariantKind::kBackwardPostprocess}) {
      JAX_FA4_RETURN_IF_ERROR(FindHelper(kName, *variant, kind, &helper));
    }
  }
  return ffi::Error::Success();
}

BackwardArguments MakeArguments(const BackwardBuffers& buffers, const AttentionScalars& scalars) {
  const auto query = buffers.q.buffer.dimensions();
  const auto value = buffers.v.buffer.dimensions();
  const BackwardScratch& scratch = buffers.preprocess.scratch;
  BackwardArguments arguments{};
  arguments.q = buffers.q.buffer.untyped_data();
  arguments.k = buffers.k.buffer.untyped_data();
  arguments.v = buffers.v.buffer.untyped_data();
  arguments.dout = buffers.preprocess.dout.buffer.untyped_data();
  arguments.lse_log2 = scratch.lse_log2.buffer.untyped_data();
  arguments.delta = scratch.delta.buffer.untyped_data();
  arguments.dq_accum = scratch.dq_accum.buffer.untyped_data();
  arguments.dk = buffers.dk.buffer.untyped_data();
  arguments.dv = buffers.dv.buffer.untyped_data();
  arguments.semaphores = scratch.semaphores.buffer.untyped_data();
  arguments.batch = static_cast<int32_t>(query[0]);
  arguments.seqlen_q = static_cast<int32_t>(query[1]);
  arguments.seqlen_k = static_cast<int32_t>(value[1]);
  arguments.heads_q = static_cast<int32_t>(query[2]);
  arguments.heads_kv = static_cast<int32_t>(value[2]);
  arguments.head_dim = static_cast<int32_t>(query[3]);
  arguments.head_dim_v = static_cast<int32_t>(value[3]);
  arguments.softmax_scale = scalars.softmax_scale;
  arguments.band_lower = scalars.band_lower;
  arguments.band_upper = scalars.band_upper;
  return arguments;
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

// Whether a main kernel writes dq itself. It takes dq in the place of semaphores, which it does not
// use; dq_accum is scratch of its own, without zeros; and no kernel comes after it.
bool WritesDq(const Variant& variant) {
  constexpr std::string_view kForm = "_serial";
  const std::string_view name = variant.name;
  return name.size() > kForm.size() && name.substr(name.size() - kForm.size()) == kForm;
}

// A checked call, whatever is to run it.
class BackwardCall {
 public:
  ffi::Error Prepare(const BackwardBuffers& buffers, std::string_view variants,
                     const AttentionScalars& scalars) {
    JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
    JAX_FA4_RETURN_IF_ERROR(CheckScalars(kName, scalars));
    operation_ = {kName, VariantKind::kBackward, variants};
    JAX_FA4_RETURN_IF_ERROR(FindVariants(operation_, &candidates_));
    JAX_FA4_RETURN_IF_ERROR(CheckVariants(kName, candidates_, buffers.q, buffers.v));
    JAX_FA4_RETURN_IF_ERROR(CheckKernels(candidates_, buffers.preprocess.scratch.dq_accum));
    buffers_ = &buffers;
    preprocess_ = MakePreprocessArguments(buffers.preprocess);
    main_ = MakeArguments(buffers, scalars);
    postprocess_ = MakePostprocessArguments(buffers, scalars);
    return ffi::Error::Success();
  }

  const Operation& operation() const { return operation_; }
  const std::vector<const Variant*>& candidates() const { return candidates_; }

  KernelPlan Plan() {
    return [this](const Variant& variant) {
      if (WritesDq(variant)) return PlanOfTwo(variant);
      // dq_accum may be wider, for a variant of another device: it is used at this one's width.
      preprocess_.dq_tile_width = postprocess_.dq_tile_width = variant.head_dim;
      const Variant* first = nullptr;
      const Variant* last = nullptr;
      // Both exist: CheckKernels.
      (void)FindHelper(kName, variant, VariantKind::kBackwardPreprocess, &first);
      (void)FindHelper(kName, variant, VariantKind::kBackwardPostprocess, &last);
      const auto& [q, k, v, preprocess, dq, dk, dv] = *buffers_;
      const BackwardScratch& scratch = preprocess.scratch;
      return std::vector<KernelLaunch>{
          {first, preprocess_.Addresses(), {&preprocess_.stream}, PreprocessMemory(preprocess)},
          {&variant,
           main_.Addresses(),
           {&main_.stream, &main_.sm_count},
           {{q, k, v, preprocess.dout, scratch.delta, scratch.lse_log2},
            {dk, dv},
            {scratch.dq_accum, scratch.semaphores}}},
          {last, postprocess_.Addresses(), {&postprocess_.stream}, {{scratch.dq_accum}, {dq}, {}}},
      };
    };
  }

 private:
  // Of a main kernel that writes dq.
  std::vector<KernelLaunch> PlanOfTwo(const Variant& variant) {
    const auto& [q, k, v, preprocess, dq, dk, dv] = *buffers_;
    const BackwardScratch& scratch = preprocess.scratch;
    const Variant* first = nullptr;
    (void)FindHelper(kName, variant, VariantKind::kBackwardPreprocess, &first);
    preprocess_.dq_tile_width = 0;
    main_.semaphores = dq.buffer.untyped_data();
    KernelMemory before = PreprocessMemory(preprocess);
    before.writes = {scratch.delta, scratch.lse_log2, scratch.semaphores};
    return {
        {first, preprocess_.Addresses(), {&preprocess_.stream}, before},
        {&variant,
         main_.Addresses(),
         {&main_.stream, &main_.sm_count},
         {{q, k, v, preprocess.dout, scratch.delta, scratch.lse_log2},
          {dq, dk, dv},
          {scratch.dq_accum}}},
    };
  }

  Operation operation_;
  std::vector<const Variant*> candidates_;
  const BackwardBuffers* buffers_ = nullptr;
  BackwardPreprocessArguments preprocess_{};
  BackwardArguments main_{};
  BackwardPostprocessArguments postprocess_{};
};

// Arguments and results in the order of backward.h.
ffi::Error NameBuffers(const ffi::RemainingArgs& arguments, const ffi::RemainingRets& results,
                       std::optional<BackwardBuffers>* buffers) {
  std::vector<Named> in, out;
  JAX_FA4_RETURN_IF_ERROR(
      NameArguments(kName, arguments, {"q", "k", "v", "out", "dout", "lse", "dlse"}, &in));
  JAX_FA4_RETURN_IF_ERROR(NameResults(
      kName, results, {"dq", "dk", "dv", "delta", "lse_log2", "dq_accum", "semaphores"}, &out));
  const BackwardScratch scratch{out[3], out[4], out[5], out[6]};
  const PreprocessBuffers preprocess{in[3], in[4], in[5], in[6], scratch};
  *buffers = BackwardBuffers{in[0], in[1], in[2], preprocess, out[0], out[1], out[2]};
  return ffi::Error::Success();
}

ffi::Error Execute(ffi::Context context, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                   std::string_view variants, float softmax_scale, int32_t band_lower,
                   int32_t band_upper) {
  std::optional<BackwardBuffers> buffers;
  BackwardCall call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(
      call.Prepare(*buffers, variants, {softmax_scale, band_lower, band_upper}));
  return Launch(call.operation(), call.candidates(), context, call.Plan());
}

// The same on the emulator; the attributes are those of Execute and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                           ffi::Dictionary attributes) {
  std::optional<BackwardBuffers> buffers;
  std::string_view variants;
  AttentionScalars scalars{};
  EmulatorSettings settings;
  BackwardCall call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "variants", &variants));
  JAX_FA4_RETURN_IF_ERROR(ReadScalars(kName, attributes, &scalars));
  JAX_FA4_RETURN_IF_ERROR(ReadEmulatorSettings(kName, attributes, &settings));
  JAX_FA4_RETURN_IF_ERROR(call.Prepare(*buffers, variants, scalars));
  return LaunchEmulated(call.operation(), call.candidates(), settings, call.Plan());
}

ffi::Error InitializeBackward(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kBackward, context, attributes,
                    {VariantKind::kBackwardPreprocess, VariantKind::kBackwardPostprocess});
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::Execute;
using jax_fa4::ExecuteEmulated;
using jax_fa4::InitializeBackward;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_v1, Execute,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("variants")
                                  .Attr<float>("softmax_scale")
                                  .Attr<int32_t>("band_lower")
                                  .Attr<int32_t>("band_upper"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_v1_initialize, InitializeBackward,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_bwd_v1, ExecuteEmulated,
                              ::xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
