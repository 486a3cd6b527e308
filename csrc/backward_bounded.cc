#include "backward_bounded.h"

#include <optional>

#include "backward_call.h"
#include "bounds_checks.h"
#include "emulated_launch.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = "jax_fa4_bwd_bounded_v1";

struct Buffers {
  BackwardBuffers backward;
  BoundsBuffers bounds;
  Named key_groups;
};

using Call = BackwardCall<BackwardBoundedArguments>;

// Arguments and results in the order of backward_bounded.h.
ffi::Error NameBuffers(const ffi::RemainingArgs& arguments, const ffi::RemainingRets& results,
                       std::optional<Buffers>* buffers) {
  std::vector<Named> in, out;
  JAX_FA4_RETURN_IF_ERROR(NameArguments(kName, arguments,
                                        {"q", "k", "v", "out", "dout", "lse", "dlse", "row_bounds",
                                         "query_ids", "key_ids", "query_groups", "key_groups"},
                                        &in));
  JAX_FA4_RETURN_IF_ERROR(NameBackwardResults(kName, results, &out));
  *buffers = Buffers{MakeBackwardBuffers(in, out), {in[7], in[8], in[9], in[10]}, in[11]};
  return ffi::Error::Success();
}

ffi::Error Prepare(const Buffers& buffers, std::string_view variants,
                   const AttentionScalars& scalars, float softcap, Call* call) {
  AttentionShape shape;
  JAX_FA4_RETURN_IF_ERROR(CheckBackwardBuffers(kName, buffers.backward, &shape));
  JAX_FA4_RETURN_IF_ERROR(CheckBounds(kName, buffers.bounds, shape));
  JAX_FA4_RETURN_IF_ERROR(CheckKeyGroups(kName, buffers.key_groups, shape));
  const Operation operation{kName, VariantKind::kBackwardBounded, variants};
  JAX_FA4_RETURN_IF_ERROR(call->Prepare(operation, buffers.backward, scalars));
  JAX_FA4_RETURN_IF_ERROR(CheckSoftcap(kName, softcap, call->candidates()));
  FillBounds(buffers.bounds, softcap, call->main());
  call->main()->key_groups = buffers.key_groups.buffer.untyped_data();
  std::vector<Named> reads = buffers.bounds.All();
  reads.push_back(buffers.key_groups);
  call->AddReads(reads);
  return ffi::Error::Success();
}

ffi::Error Execute(ffi::Context context, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                   std::string_view variants, float softmax_scale, float softcap) {
  std::optional<Buffers> buffers;
  Call call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(
      Prepare(*buffers, variants, BoundedScalars(softmax_scale), softcap, &call));
  return Launch(call.operation(), call.candidates(), context, call.Plan());
}

// The same on the emulator; the attributes are those of Execute and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                           ffi::Dictionary attributes) {
  std::optional<Buffers> buffers;
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
  return LaunchEmulated(call.operation(), call.candidates(), settings, call.Plan());
}

ffi::Error InitializeBackward(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kBackwardBounded, context, attributes,
                    {VariantKind::kBackwardPreprocess, VariantKind::kBackwardPostprocess});
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::Execute;
using jax_fa4::ExecuteEmulated;
using jax_fa4::InitializeBackward;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_bounded_v1, Execute,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("variants")
                                  .Attr<float>("softmax_scale")
                                  .Attr<float>("softcap"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_bwd_bounded_v1_initialize, InitializeBackward,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_bwd_bounded_v1, ExecuteEmulated,
                              ::xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
