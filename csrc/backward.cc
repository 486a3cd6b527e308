#include "backward.h"

#include "checks.h"
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
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(kName, head_dim));
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

// The order of parameters is that of the binding below.
ffi::Error ExecutePreprocess(ffi::Context context, ffi::AnyBuffer out, ffi::AnyBuffer dout,
                             ffi::AnyBuffer dlse, ffi::Result<ffi::AnyBuffer> delta,
                             std::string_view variants) {
  const PreprocessBuffers buffers{{"out", out}, {"dout", dout}, {"dlse", dlse}, {"delta", *delta}};
  JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
  const Operation operation{kName, VariantKind::kBackwardPreprocess, variants};
  std::vector<const Variant*> candidates;
  JAX_FA4_RETURN_IF_ERROR(FindVariants(operation, &candidates));
  JAX_FA4_RETURN_IF_ERROR(CheckVariants(candidates, buffers.out));
  const auto shape = out.dimensions();
  BackwardPreprocessArguments arguments{};
  arguments.out = out.untyped_data();
  arguments.dout = dout.untyped_data();
  arguments.dlse = dlse.untyped_data();
  arguments.delta = delta->untyped_data();
  arguments.batch = static_cast<int32_t>(shape[0]);
  arguments.seqlen = static_cast<int32_t>(shape[1]);
  arguments.heads = static_cast<int32_t>(shape[2]);
  arguments.head_dim = static_cast<int32_t>(shape[3]);
  return Launch(operation, candidates, context, arguments.Addresses(), {&arguments.stream});
}

ffi::Error InitializePreprocess(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kBackwardPreprocess, context, attributes);
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::ExecutePreprocess;
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
