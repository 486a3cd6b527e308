#include "forward_bounded.h"

#include <optional>

#include "bounds_checks.h"
#include "emulated_launch.h"
#include "forward_call.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = kForwardBoundedName;

using Call = ForwardCall<ForwardBoundedArguments>;

// Arguments and results in the order of forward_bounded.h.
ffi::Error NameBuffers(const ffi::RemainingArgs& arguments, const ffi::RemainingRets& results,
                       std::optional<BoundedForwardBuffers>* buffers) {
  std::vector<Named> in, out;
  JAX_FA4_RETURN_IF_ERROR(NameArguments(
      kName, arguments,
      {"q", "k", "v", "row_bounds", "query_ids", "key_ids", "query_groups", "sinks"}, &in));
  JAX_FA4_RETURN_IF_ERROR(NameResults(kName, results, {"out", "lse"}, &out));
  *buffers = BoundedForwardBuffers{
      {in[0], in[1], in[2], out[0], out[1]}, {in[3], in[4], in[5], in[6]}, in[7]};
  return ffi::Error::Success();
}

ffi::Error Prepare(const BoundedForwardBuffers& buffers, std::string_view variants,
                   const AttentionScalars& scalars, float softcap, Call* call) {
  JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
  call->operation = {kName, VariantKind::kForwardBounded, variants};
  JAX_FA4_RETURN_IF_ERROR(PrepareForward(buffers.forward, scalars, call));
  JAX_FA4_RETURN_IF_ERROR(CheckSoftcap(kName, softcap, call->candidates));
  FillBounds(buffers.bounds, softcap, &call->arguments);
  call->arguments.sinks = buffers.sinks.buffer.untyped_data();
  for (const Named& read : buffers.bounds.All()) call->memory.reads.push_back(read);
  call->memory.reads.push_back(buffers.sinks);
  return ffi::Error::Success();
}

ffi::Error Execute(ffi::Context context, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                   std::string_view variants, float softmax_scale, float softcap) {
  std::optional<BoundedForwardBuffers> buffers;
  Call call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(
      Prepare(*buffers, variants, BoundedScalars(softmax_scale), softcap, &call));
  return Launch(call.operation, call.candidates, context, call.Plan());
}

// The same on the emulator; the attributes are those of Execute and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                           ffi::Dictionary attributes) {
  std::optional<BoundedForwardBuffers> buffers;
  std::string_view variants;
  AttentionScalars scalars{};
  float softcap = 0.0f;
  EmulatorSettings settings;
  Call call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "variants", &variants));
  JAX_FA4_RETURN_IF_ERROR(ReadBoundedScalars(kName, attributes, &scalars, &softcap));
  JAX_FA4_RETURN_IF_ERROR(ReadEmulatorSettings(kName, attributes, &settings));
  JAX_FA4_RETURN_IF_ERROR(Prepare(*buffers, variants, scalars, softcap, &call));
  return LaunchEmulated(call.operation, call.candidates, settings, call.Plan());
}

ffi::Error InitializeForward(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kForwardBounded, context, attributes);
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::Execute;
using jax_fa4::ExecuteEmulated;
using jax_fa4::InitializeForward;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_fwd_bounded_v1, Execute,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("variants")
                                  .Attr<float>("softmax_scale")
                                  .Attr<float>("softcap"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_fwd_bounded_v1_initialize, InitializeForward,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_fwd_bounded_v1, ExecuteEmulated,
                              ::xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
