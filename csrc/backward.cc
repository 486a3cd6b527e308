#include "backward.h"

#include "checks.h"
#include "emulated_launch.h"
#include "launch.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = "jax_fa4_bwd_preprocess_v1";

struct PreprocessBuffers {
  Named out, dout, dlse, delta;
};

ffi::Error CheckBuffers(const PreprocessBuffers& buffers) {
  const auto& [out, dout, dlse, delta] = buffers;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecision(kName, out));
  JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, dout, out.buffer.element_type()));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, out, 4, "(batch, seqlen, heads, head_dim)"));
  const auto shape = out.buffer.dimensions();
  const int64_t batch = shape[0], seqlen = shape[1], heads = shape[2], head_dim = shape[3];
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(kName, "head_dim", head_dim));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, dout, {batch, seqlen, heads, head_dim}, "the same as out"));
  for (const Named* argument : {&dlse, &delta}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, *argument, ffi::DataType::F32));
    JAX_FA4_RETURN_IF_ERROR(
        CheckShape(kName, *argument, {batch, heads, seqlen}, "(batch, heads, seqlen)"));
  }
  for (const Named* argument : {&out, &dout, &dlse, &delta}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(kName, *argument));
  }
  return ffi::Error::Success();
}

ffi::Error CheckVariants(const std::vector<const Variant*>& variants, const Named& out) {
  for (const Variant* variant : variants) {
    if (variant->dtype != DTypeName(out.buffer.element_type())) {
      return InvalidArgument(kName, "variant ", variant->name, " does not take ", Describe(out));
    }
  }
  return ffi::Error::Success();
}

// A checked call, whatever is to run it.
struct PreprocessCall {
  Operation operation;
  std::vector<const Variant*> candidates;
  BackwardPreprocessArguments arguments;
};

ffi::Error Prepare(const PreprocessBuffers& buffers, std::string_view variants,
                   PreprocessCall* call) {
  JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
  call->operation = {kName, VariantKind::kBackwardPreprocess, variants};
  JAX_FA4_RETURN_IF_ERROR(FindVariants(call->operation, &call->candidates));
  JAX_FA4_RETURN_IF_ERROR(CheckVariants(call->candidates, buffers.out));
  const auto shape = buffers.out.buffer.dimensions();
  BackwardPreprocessArguments& arguments = call->arguments;
  arguments.out = buffers.out.buffer.untyped_data();
  arguments.dout = buffers.dout.buffer.untyped_data();
  arguments.dlse = buffers.dlse.buffer.untyped_data();
  arguments.delta = buffers.delta.buffer.untyped_data();
  arguments.batch = static_cast<int32_t>(shape[0]);
  arguments.seqlen = static_cast<int32_t>(shape[1]);
  arguments.heads = static_cast<int32_t>(shape[2]);
  arguments.head_dim = static_cast<int32_t>(shape[3]);
  return ffi::Error::Success();
}

// The order of parameters is that of the binding below.
ffi::Error ExecutePreprocess(ffi::Context context, ffi::AnyBuffer out, ffi::AnyBuffer dout,
                             ffi::AnyBuffer dlse, ffi::Result<ffi::AnyBuffer> delta,
                             std::string_view variants) {
  const PreprocessBuffers buffers{{"out", out}, {"dout", dout}, {"dlse", dlse}, {"delta", *delta}};
  PreprocessCall call;
  JAX_FA4_RETURN_IF_ERROR(Prepare(buffers, variants, &call));
  return Launch(call.operation, call.candidates, context, call.arguments.Addresses(),
                {&call.arguments.stream});
}

// The same on the emulator; the attributes are the variants and the emulator's settings.
ffi::Error ExecutePreprocessEmulated(ffi::AnyBuffer out, ffi::AnyBuffer dout, ffi::AnyBuffer dlse,
                                     ffi::Result<ffi::AnyBuffer> delta,
                                     ffi::Dictionary attributes) {
  const PreprocessBuffers buffers{{"out", out}, {"dout", dout}, {"dlse", dlse}, {"delta", *delta}};
  std::string_view variants;
  EmulatorSettings settings;
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "variants", &variants));
  JAX_FA4_RETURN_IF_ERROR(ReadEmulatorSettings(kName, attributes, &settings));
  PreprocessCall call;
  JAX_FA4_RETURN_IF_ERROR(Prepare(buffers, variants, &call));
  return LaunchEmulated(call.operation, call.candidates, settings,
                        {{buffers.out, buffers.dout, buffers.dlse}, {buffers.delta}},
                        call.arguments.Addresses(), {&call.arguments.stream});
}

ffi::Error InitializePreprocess(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kBackwardPreprocess, context, attributes);
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::ExecutePreprocess;
using jax_fa4::ExecutePreprocessEmulated;
using jax_fa4::InitializePreprocess;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_preprocess_v1, ExecutePreprocess,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .Arg<::xla::ffi::AnyBuffer>()  // out
                                  .Arg<::xla::ffi::AnyBuffer>()  // dout
                                  .Arg<::xla::ffi::AnyBuffer>()  // dlse
                                  .Ret<::xla::ffi::AnyBuffer>()  // delta
                                  .Attr<std::string_view>("variants"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_preprocess_v1_initialize, InitializePreprocess,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_bwd_preprocess_v1, ExecutePreprocessEmulated,
                              ::xla::ffi::Ffi::Bind()
                                  .Arg<::xla::ffi::AnyBuffer>()  // out
                                  .Arg<::xla::ffi::AnyBuffer>()  // dout
                                  .Arg<::xla::ffi::AnyBuffer>()  // dlse
                                  .Ret<::xla::ffi::AnyBuffer>()  // delta
                                  .Attrs());
