#include "forward.h"

#include "emulated_launch.h"
#include "forward_call.h"

namespace jax_fa4 {
namespace {

ffi::Error Prepare(const ForwardBuffers& buffers, std::string_view variants,
                   const AttentionScalars& scalars, ForwardCall<ForwardArguments>* call) {
  JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
  call->operation = {kForwardName, VariantKind::kForward, variants};
  return PrepareForward(buffers, scalars, call);
}

ffi::Error Prepare(const Fp8Buffers& buffers, std::string_view variants,
                   const AttentionScalars& scalars, ForwardCall<ForwardFp8Arguments>* call) {
  JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
  call->operation = {kForwardFp8Name, VariantKind::kForward, variants};
  call->arguments.q_descale = buffers.q_descale.buffer.untyped_data();
  call->arguments.k_descale = buffers.k_descale.buffer.untyped_data();
  call->arguments.v_descale = buffers.v_descale.buffer.untyped_data();
  call->memory.reads = {buffers.q_descale, buffers.k_descale, buffers.v_descale};
  return PrepareForward(buffers.forward, scalars, call);
}

// The order of parameters is that of the bindings below.
ffi::Error Execute(ffi::Context context, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                   ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> lse,
                   std::string_view variants, float softmax_scale, int32_t band_lower,
                   int32_t band_upper) {
  const ForwardBuffers buffers{{"q", q}, {"k", k}, {"v", v}, {"out", *out}, {"lse", *lse}};
  ForwardCall<ForwardArguments> call;
  JAX_FA4_RETURN_IF_ERROR(
      Prepare(buffers, variants, {softmax_scale, band_lower, band_upper}, &call));
  return Launch(call.operation, call.candidates, context, call.Plan());
}

Fp8Buffers MakeFp8Buffers(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                          ffi::AnyBuffer q_descale, ffi::AnyBuffer k_descale,
                          ffi::AnyBuffer v_descale, ffi::AnyBuffer out, ffi::AnyBuffer lse) {
  return {{{"q", q}, {"k", k}, {"v", v}, {"out", out}, {"lse", lse}},
          {"q_descale", q_descale},
          {"k_descale", k_descale},
          {"v_descale", v_descale}};
}

ffi::Error ExecuteFp8(ffi::Context context, ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                      ffi::AnyBuffer q_descale, ffi::AnyBuffer k_descale, ffi::AnyBuffer v_descale,
                      ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> lse,
                      std::string_view variants, float softmax_scale, int32_t band_lower,
                      int32_t band_upper) {
  const Fp8Buffers buffers = MakeFp8Buffers(q, k, v, q_descale, k_descale, v_descale, *out, *lse);
  ForwardCall<ForwardFp8Arguments> call;
  JAX_FA4_RETURN_IF_ERROR(
      Prepare(buffers, variants, {softmax_scale, band_lower, band_upper}, &call));
  return Launch(call.operation, call.candidates, context, call.Plan());
}

struct EmulatedAttributes {
  std::string_view variants;
  AttentionScalars scalars{};
  EmulatorSettings settings;
};

ffi::Error ReadEmulated(std::string_view name, const ffi::Dictionary& from,
                        EmulatedAttributes* to) {
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(name, from, "variants", &to->variants));
  JAX_FA4_RETURN_IF_ERROR(ReadScalars(name, from, &to->scalars));
  return ReadEmulatorSettings(name, from, &to->settings);
}

// The same on the emulator; the attributes are those above and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                           ffi::Result<ffi::AnyBuffer> out, ffi::Result<ffi::AnyBuffer> lse,
                           ffi::Dictionary attributes) {
  const ForwardBuffers buffers{{"q", q}, {"k", k}, {"v", v}, {"out", *out}, {"lse", *lse}};
  EmulatedAttributes read;
  JAX_FA4_RETURN_IF_ERROR(ReadEmulated(kForwardName, attributes, &read));
  ForwardCall<ForwardArguments> call;
  JAX_FA4_RETURN_IF_ERROR(Prepare(buffers, read.variants, read.scalars, &call));
  return LaunchEmulated(call.operation, call.candidates, read.settings, call.Plan());
}

ffi::Error ExecuteEmulatedFp8(ffi::AnyBuffer q, ffi::AnyBuffer k, ffi::AnyBuffer v,
                              ffi::AnyBuffer q_descale, ffi::AnyBuffer k_descale,
                              ffi::AnyBuffer v_descale, ffi::Result<ffi::AnyBuffer> out,
                              ffi::Result<ffi::AnyBuffer> lse, ffi::Dictionary attributes) {
  const Fp8Buffers buffers = MakeFp8Buffers(q, k, v, q_descale, k_descale, v_descale, *out, *lse);
  EmulatedAttributes read;
  JAX_FA4_RETURN_IF_ERROR(ReadEmulated(kForwardFp8Name, attributes, &read));
  ForwardCall<ForwardFp8Arguments> call;
  JAX_FA4_RETURN_IF_ERROR(Prepare(buffers, read.variants, read.scalars, &call));
  return LaunchEmulated(call.operation, call.candidates, read.settings, call.Plan());
}

ffi::Error InitializeForward(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kForwardName, VariantKind::kForward, context, attributes);
}

ffi::Error InitializeForwardFp8(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kForwardFp8Name, VariantKind::kForward, context, attributes);
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::Execute;
using jax_fa4::ExecuteEmulated;
using jax_fa4::ExecuteEmulatedFp8;
using jax_fa4::ExecuteFp8;
using jax_fa4::InitializeForward;
using jax_fa4::InitializeForwardFp8;

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

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_fwd_fp8_v1, ExecuteFp8,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .Arg<::xla::ffi::AnyBuffer>()  // q
                                  .Arg<::xla::ffi::AnyBuffer>()  // k
                                  .Arg<::xla::ffi::AnyBuffer>()  // v
                                  .Arg<::xla::ffi::AnyBuffer>()  // q_descale
                                  .Arg<::xla::ffi::AnyBuffer>()  // k_descale
                                  .Arg<::xla::ffi::AnyBuffer>()  // v_descale
                                  .Ret<::xla::ffi::AnyBuffer>()  // out
                                  .Ret<::xla::ffi::AnyBuffer>()  // lse
                                  .Attr<std::string_view>("variants")
                                  .Attr<float>("softmax_scale")
                                  .Attr<int32_t>("band_lower")
                                  .Attr<int32_t>("band_upper"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_fwd_fp8_v1_initialize, InitializeForwardFp8,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_fwd_fp8_v1, ExecuteEmulatedFp8,
                              ::xla::ffi::Ffi::Bind()
                                  .Arg<::xla::ffi::AnyBuffer>()  // q
                                  .Arg<::xla::ffi::AnyBuffer>()  // k
                                  .Arg<::xla::ffi::AnyBuffer>()  // v
                                  .Arg<::xla::ffi::AnyBuffer>()  // q_descale
                                  .Arg<::xla::ffi::AnyBuffer>()  // k_descale
                                  .Arg<::xla::ffi::AnyBuffer>()  // v_descale
                                  .Ret<::xla::ffi::AnyBuffer>()  // out
                                  .Ret<::xla::ffi::AnyBuffer>()  // lse
                                  .Attrs());
