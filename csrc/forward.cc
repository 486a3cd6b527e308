#include "forward.h"

#include <cmath>

#include "checks.h"
#include "emulated_launch.h"
#include "launch.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = "jax_fa4_fwd_v1";
// Bounds and lengths stay within this, so that their sums fit in 32 bits.
constexpr int64_t kUnbounded = int64_t{1} << 30;

struct ForwardBuffers {
  Named q, k, v, out, lse;
};

ffi::Error CheckBuffers(const ForwardBuffers& buffers) {
  const auto& [q, k, v, out, lse] = buffers;
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecision(kName, q));
  for (const Named* argument : {&k, &v, &out}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, *argument, q.buffer.element_type()));
  }
  JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, lse, ffi::DataType::F32));
  for (const Named* argument : {&q, &k, &v}) {
    JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, *argument, 4, "(batch, seqlen, heads, head_dim)"));
  }
  const auto query = q.buffer.dimensions();
  const auto key = k.buffer.dimensions();
  const int64_t batch = query[0], seqlen_q = query[1], heads_q = query[2], head_dim = query[3];
  const int64_t head_dim_v = v.buffer.dimensions()[3];
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(kName, "head_dim", head_dim));
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(kName, "head_dim_v", head_dim_v));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, k, {batch, key[1], key[2], head_dim}, "batch and head_dim as in q"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, v, {batch, key[1], key[2], head_dim_v}, "the same as k but for head_dim"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, out, {batch, seqlen_q, heads_q, head_dim_v},
                                     "the same as q with the head_dim of v"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, lse, {batch, heads_q, seqlen_q}, "(batch, heads_q, seqlen_q)"));
  if (heads_q % key[2] != 0) {
    return InvalidArgument(kName, Describe(q), ", ", Describe(k), ": the ", key[2],
                           " heads of k must divide the ", heads_q, " heads of q");
  }
  if (seqlen_q >= kUnbounded || key[1] >= kUnbounded) {
    return InvalidArgument(kName, Describe(q), ", ", Describe(k),
                           ": sequence lengths must be less than 2**30");
  }
  for (const Named* argument : {&q, &k, &v, &out, &lse}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(kName, *argument));
  }
  return ffi::Error::Success();
}

ffi::Error CheckScalars(float softmax_scale, int32_t band_lower, int32_t band_upper) {
  if (!std::isfinite(softmax_scale) || softmax_scale <= 0.0f) {
    return InvalidArgument(kName, "softmax_scale ", softmax_scale,
                           ": must be finite and greater than 0");
  }
  if (band_lower < -kUnbounded || band_upper > kUnbounded || band_lower > band_upper) {
    return InvalidArgument(kName, "band_lower ", band_lower, ", band_upper ", band_upper,
                           ": must satisfy -2**30 <= band_lower <= band_upper <= 2**30");
  }
  return ffi::Error::Success();
}

ffi::Error CheckVariants(const std::vector<const Variant*>& variants, const Named& q,
                         const Named& v) {
  for (const Variant* variant : variants) {
    if (variant->dtype != DTypeName(q.buffer.element_type())) {
      return InvalidArgument(kName, "variant ", variant->name, " does not take ", Describe(q));
    }
    if (variant->head_dim < q.buffer.dimensions()[3]) {
      return InvalidArgument(kName, "variant ", variant->name, " takes head_dim up to ",
                             variant->head_dim, ", not ", Describe(q));
    }
    if (variant->head_dim_v < v.buffer.dimensions()[3]) {
      return InvalidArgument(kName, "variant ", variant->name, " takes head_dim up to ",
                             variant->head_dim_v, " of v, not ", Describe(v));
    }
  }
  return ffi::Error::Success();
}

ForwardArguments MakeArguments(const ForwardBuffers& buffers) {
  const auto query = buffers.q.buffer.dimensions();
  const auto key = buffers.k.buffer.dimensions();
  ForwardArguments arguments{};
  arguments.q = buffers.q.buffer.untyped_data();
  arguments.k = buffers.k.buffer.untyped_data();
  arguments.v = buffers.v.buffer.untyped_data();
  arguments.out = buffers.out.buffer.untyped_data();
  arguments.lse = buffers.lse.buffer.untyped_data();
  arguments.batch = static_cast<int32_t>(query[0]);
  arguments.seqlen_q = static_cast<int32_t>(query[1]);
  arguments.seqlen_k = static_cast<int32_t>(key[1]);
  arguments.heads_q = static_cast<int32_t>(query[2]);
  arguments.heads_kv = static_cast<int32_t>(key[2]);
  arguments.head_dim = static_cast<int32_t>(query[3]);
  arguments.head_dim_v = static_cast<int32_t>(buffers.v.buffer.dimensions()[3]);
  return arguments;
}

struct ForwardScalars {
  float softmax_scale;
  int32_t band_lower;
  int32_t band_upper;
};

// A checked call, whatever is to run it.
struct ForwardCall {
  Operation operation;
  std::vector<const Variant*> candidates;
  ForwardArguments arguments;
  LaunchFields Fields() { return {&arguments.stream, &arguments.sm_count}; }
};

ffi::Error Prepare(const ForwardBuffers& buffers, std::string_view variants,
                   const ForwardScalars& scalars, ForwardCall* call) {
  JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
  JAX_FA4_RETURN_IF_ERROR(
      CheckScalars(scalars.softmax_scale, scalars.band_lower, scalars.band_upper));
  call->operation = {kName, VariantKind::kForward, variants};
  JAX_FA4_RETURN_IF_ERROR(FindVariants(call->operation, &call->candidates));
  JAX_FA4_RETURN_IF_ERROR(CheckVariants(call->candidates, buffers.q, buffers.v));
  call->arguments = MakeArguments(buffers);
  call->arguments.softmax_scale = scalars.softmax_scale;
  call->arguments.band_lower = scalars.band_lower;
  call->arguments.band_upper = scalars.band_upper;
  return ffi::Error::Success();
}

// The order of parameters is that of the binding below.
ffi::Error Execute(ffi::Context context, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                   ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> lse,
                   std::string_view variants, float softmax_scale, int32_t band_lower,
                   int32_t band_upper) {
  const ForwardBuffers buffers{{"q", q}, {"k", k}, {"v", v}, {"out", *out}, {"lse", *lse}};
  ForwardCall call;
  JAX_FA4_RETURN_IF_ERROR(
      Prepare(buffers, variants, {softmax_scale, band_lower, band_upper}, &call));
  return Launch(call.operation, call.candidates, context, call.arguments.Addresses(),
                call.Fields());
}

// The same on the emulator; the attributes are those of Execute and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                           ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> lse,
                           ffi::Dictionary attributes) {
  const ForwardBuffers buffers{{"q", q}, {"k", k}, {"v", v}, {"out", *out}, {"lse", *lse}};
  std::string_view variants;
  ForwardScalars scalars{};
  EmulatorSettings settings;
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "variants", &variants));
  JAX_FA4_RETURN_IF_ERROR(
      ReadAttribute(kName, attributes, "softmax_scale", &scalars.softmax_scale));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "band_lower", &scalars.band_lower));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "band_upper", &scalars.band_upper));
  JAX_FA4_RETURN_IF_ERROR(ReadEmulatorSettings(kName, attributes, &settings));
  ForwardCall call;
  JAX_FA4_RETURN_IF_ERROR(Prepare(buffers, variants, scalars, &call));
  return LaunchEmulated(call.operation, call.candidates, settings,
                        {{buffers.q, buffers.k, buffers.v}, {buffers.out, buffers.lse}},
                        call.arguments.Addresses(), call.Fields());
}

ffi::Error InitializeForward(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kForward, context, attributes);
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::Execute;
using jax_fa4::ExecuteEmulated;
using jax_fa4::InitializeForward;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_fwd_v1, Execute,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .Arg<::xla::ffi::AnyBuffer>()  // q
                                  .Arg<::xla::ffi::AnyBuffer>()  // k
                                  .Arg<::xla::ffi::AnyBuffer>()  // v
                                  .Ret<::xla::ffi::AnyBuffer>()  // out
                                  .Ret<::xla::ffi::AnyBuffer>()  // lse
                                  .Attr<std::string_view>("variants")
                                  .Attr<float>("softmax_scale")
                                  .Attr<int32_t>("band_lower")
                                  .Attr<int32_t>("band_upper"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_fwd_v1_initialize, InitializeForward,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_fwd_v1, ExecuteEmulated,
                              ::xla::ffi::Ffi::Bind()
                                  .Arg<::xla::ffi::AnyBuffer>()  // q
                                  .Arg<::xla::ffi::AnyBuffer>()  // k
                                  .Arg<::xla::ffi::AnyBuffer>()  // v
                                  .Ret<::xla::ffi::AnyBuffer>()  // out
                                  .Ret<::xla::ffi::AnyBuffer>()  // lse
                                  .Attrs());
