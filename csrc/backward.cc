#include "backward.h"

#include <optional>

#include "attention_checks.h"
#include "backward_call.h"
#include "emulated_launch.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = "jax_fa4_bwd_v1";

using Call = BackwardCall<BackwardArguments>;

// Arguments and results in the order of backward.h.
ffi::Error NameBuffers(const ffi::RemainingArgs& arguments, const ffi::RemainingRets& results,
                       std::optional<BackwardBuffers>* buffers) {
  std::vector<Named> in, out;
  JAX_FA4_RETURN_IF_ERROR(
      NameArguments(kName, arguments, {"q", "k", "v", "out", "dout", "lse", "dlse"}, &in));
  JAX_FA4_RETURN_IF_ERROR(NameBackwardResults(kName, results, &out));
  *buffers = MakeBackwardBuffers(in, out);
  return ffi::Error::Success();
}

ffi::Error Prepare(const BackwardBuffers& buffers, std::string_view variants,
                   const AttentionScalars& scalars, Call* call) {
  AttentionShape shape;
  JAX_FA4_RETURN_IF_ERROR(CheckBackwardBuffers(kName, buffers, &shape));
  return call->Prepare({kName, VariantKind::kBackward, variants}, buffers, scalars);
}

ffi::Error Execute(ffi::Context context, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                   std::string_view variants, float softmax_scale, int32_t band_lower,
                   int32_t band_upper) {
  std::optional<BackwardBuffers> buffers;
  Call call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(
      Prepare(*buffers, variants, {softmax_scale, band_lower, band_upper}, &call));
  return Launch(call.operation(), call.candidates(), context, call.Plan());
}

// The same on the emulator; the attributes are those of Execute and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                           ffi::Dictionary attributes) {
  std::optional<BackwardBuffers> buffers;
  std::string_view variants;
  AttentionScalars scalars{};
  EmulatorSettings settings;
  Call call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "variants", &variants));
  JAX_FA4_RETURN_IF_ERROR(ReadScalars(kName, attributes, &scalars));
  JAX_FA4_RETURN_IF_ERROR(ReadEmulatorSettings(kName, attributes, &settings));
  JAX_FA4_RETURN_IF_ERROR(Prepare(*buffers, variants, scalars, &call));
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
