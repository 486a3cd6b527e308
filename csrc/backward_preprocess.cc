#include "backward_preprocess.h"

#include <optional>

#include "emulated_launch.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = "jax_fa4_bwd_preprocess_v1";
constexpr int64_t kRowGrain = 128;      // rows of scratch, a whole number of every kernel's tiles
constexpr int64_t kSemaphoreRows = 64;  // of queries, the narrowest tile

ffi::Error CheckScratch(std::string_view operation, const BackwardScratch& scratch,
                        const PreprocessShape& shape) {
  const auto& [delta, lse_log2, dq_accum, semaphores] = scratch;
  const int64_t rows = (shape.seqlen_q + kRowGrain - 1) / kRowGrain * kRowGrain;
  for (const Named* argument : {&delta, &lse_log2, &dq_accum}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, *argument, ffi::DataType::F32));
  }
  JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, semaphores, ffi::DataType::S32));
  for (const Named* argument : {&delta, &lse_log2}) {
    JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, *argument, {shape.batch, shape.heads_q, rows},
                                       "(batch, heads_q, seqlen_q rounded up to 128)"));
  }
  JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, semaphores,
                                     {shape.batch, shape.heads_q, rows / kSemaphoreRows},
                                     "one for each 64 rows of delta"));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(operation, dq_accum, 4, "(batch, heads_q, rows, width)"));
  const int64_t width = dq_accum.buffer.dimensions()[3];
  return CheckShape(operation, dq_accum, {shape.batch, shape.heads_q, rows, width},
                    "the rows of delta");
}

}  // namespace

ffi::Error CheckPreprocess(std::string_view operation, const PreprocessBuffers& buffers,
                           const PreprocessShape& shape) {
  const auto& [out, dout, lse, dlse, scratch] = buffers;
  JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, dout, out.buffer.element_type()));
  for (const Named* argument : {&lse, &dlse}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(operation, *argument, ffi::DataType::F32));
    JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, *argument,
                                       {shape.batch, shape.heads_q, shape.seqlen_q},
                                       "(batch, heads_q, seqlen_q)"));
  }
  JAX_FA4_RETURN_IF_ERROR(CheckShape(operation, dout,
                                     {shape.batch, shape.seqlen_q, shape.heads_q, shape.head_dim_v},
                                     "the same as out"));
  JAX_FA4_RETURN_IF_ERROR(CheckScratch(operation, scratch, shape));
  for (const Named* argument : {&out, &dout, &lse, &dlse, &scratch.delta, &scratch.lse_log2,
                                &scratch.dq_accum, &scratch.semaphores}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(operation, *argument));
  }
  return ffi::Error::Success();
}

BackwardPreprocessArguments MakePreprocessArguments(const PreprocessBuffers& buffers) {
  const auto& [out, dout, lse, dlse, scratch] = buffers;
  const auto shape = out.buffer.dimensions();
  const auto accumulator = scratch.dq_accum.buffer.dimensions();
  BackwardPreprocessArguments arguments{};
  arguments.out = out.buffer.untyped_data();
  arguments.dout = dout.buffer.untyped_data();
  arguments.lse = lse.buffer.untyped_data();
  arguments.dlse = dlse.buffer.untyped_data();
  arguments.delta = scratch.delta.buffer.untyped_data();
  arguments.lse_log2 = scratch.lse_log2.buffer.untyped_data();
  arguments.dq_accum = scratch.dq_accum.buffer.untyped_data();
  arguments.semaphores = scratch.semaphores.buffer.untyped_data();
  arguments.batch = static_cast<int32_t>(shape[0]);
  arguments.seqlen_q = static_cast<int32_t>(shape[1]);
  arguments.seqlen_q_padded = static_cast<int32_t>(accumulator[2]);
  arguments.heads_q = static_cast<int32_t>(shape[2]);
  arguments.head_dim_v = static_cast<int32_t>(shape[3]);
  arguments.dq_tile_width = static_cast<int32_t>(accumulator[3]);
  return arguments;
}

KernelMemory PreprocessMemory(const PreprocessBuffers& buffers) {
  const BackwardScratch& scratch = buffers.scratch;
  return {{buffers.out, buffers.dout, buffers.lse, buffers.dlse},
          {scratch.delta, scratch.lse_log2, scratch.dq_accum, scratch.semaphores},
          {}};
}

namespace {

// A checked call, whatever is to run it.
struct PreprocessCall {
  Operation operation;
  std::vector<const Variant*> candidates;
  BackwardPreprocessArguments arguments;
  KernelMemory memory;
  KernelPlan Plan() {
    return [this](const Variant& variant) {
      const LaunchFields fields{&arguments.stream};
      return std::vector<KernelLaunch>{{&variant, arguments.Addresses(), fields, memory}};
    };
  }
};

ffi::Error Prepare(const PreprocessBuffers& buffers, std::string_view variants,
                   PreprocessCall* call) {
  const Named& out = buffers.out;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecision(kName, out));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, out, 4, "(batch, seqlen, heads, head_dim)"));
  const auto shape = out.buffer.dimensions();
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(kName, "head_dim", shape[3], 8));
  JAX_FA4_RETURN_IF_ERROR(
      CheckPreprocess(kName, buffers, {shape[0], shape[1], shape[2], shape[3]}));
  call->operation = {kName, VariantKind::kBackwardPreprocess, variants};
  JAX_FA4_RETURN_IF_ERROR(FindVariants(call->operation, &call->candidates));
  for (const Variant* variant : call->candidates) {
    if (variant->dtype == DTypeName(out.buffer.element_type())) continue;
    return InvalidArgument(kName, "variant ", variant->name, " does not take ", Describe(out));
  }
  call->arguments = MakePreprocessArguments(buffers);
  call->memory = PreprocessMemory(buffers);
  return ffi::Error::Success();
}

// Arguments and results in the order of backward_preprocess.h.
ffi::Error NameBuffers(const ffi::RemainingArgs& arguments, const ffi::RemainingRets& results,
                       std::optional<PreprocessBuffers>* buffers) {
  std::vector<Named> in, out;
  JAX_FA4_RETURN_IF_ERROR(NameArguments(kName, arguments, {"out", "dout", "lse", "dlse"}, &in));
  JAX_FA4_RETURN_IF_ERROR(
      NameResults(kName, results, {"delta", "lse_log2", "dq_accum", "semaphores"}, &out));
  const BackwardScratch scratch{out[0], out[1], out[2], out[3]};
  *buffers = PreprocessBuffers{in[0], in[1], in[2], in[3], scratch};
  return ffi::Error::Success();
}

ffi::Error Execute(ffi::Context context, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                   std::string_view variants) {
  std::optional<PreprocessBuffers> buffers;
  PreprocessCall call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(Prepare(*buffers, variants, &call));
  return Launch(call.operation, call.candidates, context, call.Plan());
}

// The same on the emulator; the attributes are the variants and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                           ffi::Dictionary attributes) {
  std::optional<PreprocessBuffers> buffers;
  std::string_view variants;
  EmulatorSettings settings;
  PreprocessCall call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "variants", &variants));
  JAX_FA4_RETURN_IF_ERROR(ReadEmulatorSettings(kName, attributes, &settings));
  JAX_FA4_RETURN_IF_ERROR(Prepare(*buffers, variants, &call));
  return LaunchEmulated(call.operation, call.candidates, settings, call.Plan());
}

ffi::Error InitializePreprocess(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kBackwardPreprocess, context, attributes);
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::Execute;
using jax_fa4::ExecuteEmulated;
using jax_fa4::InitializePreprocess;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_preprocess_v1, Execute,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("variants"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_preprocess_v1_initialize, InitializePreprocess,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_bwd_preprocess_v1, ExecuteEmulated,
                              ::xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
