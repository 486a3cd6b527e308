#include "decode.h"

#include <cmath>
#include <optional>

#include "attention_checks.h"
#include "emulated_launch.h"
#include "launch.h"

namespace jax_fa4 {
namespace {

constexpr std::string_view kName = "jax_fa4_decode_v1";
constexpr int64_t kBoxRows = 16;         // of a page, that the kernel reads at once
constexpr int64_t kTileRows = 16;        // of queries and heads
constexpr int64_t kMaxGridYZ = 65535;    // CTAs
constexpr int64_t kMaxKeys = 1LL << 30;  // of a sequence: positions are int32

struct DecodeBuffers {
  Named q, k, v, page_table, lengths, sinks, out, lse, out_partial, lse_partial;
};

struct DecodeScalars {
  AttentionScalars attention{};
  float softcap = 0.0f;
};

ffi::Error CheckCache(const DecodeBuffers& x) {
  JAX_FA4_RETURN_IF_ERROR(CheckHalfPrecisions(kName, x.q, x.k, x.v));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, x.q, 4, "(batch, seqlen_q, heads_q, head_dim)"));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, x.k, 4, "(pages, page_size, heads_kv, head_dim)"));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, x.v, 4, "(pages, page_size, heads_kv, head_dim_v)"));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, x.page_table, 2, "(batch, pages of a sequence)"));
  const auto q = x.q.buffer.dimensions(), k = x.k.buffer.dimensions();
  const auto v = x.v.buffer.dimensions(), table = x.page_table.buffer.dimensions();
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, x.k, {k[0], k[1], k[2], q[3]}, "the head_dim of q"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, x.v, {k[0], k[1], k[2], v[3]}, "pages and heads of k"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, x.page_table, {q[0], table[1]}, "(batch, pages of a sequence)"));
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(kName, "head_dim", q[3]));
  JAX_FA4_RETURN_IF_ERROR(CheckHeadDim(kName, "head_dim_v", v[3]));
  if (q[2] % k[2] != 0) {
    return InvalidArgument(kName, Describe(x.q), " and ", Describe(x.k),
                           ": heads of q must be a multiple of those of k");
  }
  if (table[1] > 1 && k[1] % kBoxRows != 0) {
    return InvalidArgument(kName, "page_size ", k[1], " is not a multiple of ", kBoxRows);
  }
  if (k[1] >= kMaxKeys / table[1]) {
    return InvalidArgument(kName, Describe(x.k), " and ", Describe(x.page_table),
                           ": a sequence must have less than 2**30 keys");
  }
  const int64_t tiles = (q[1] * (q[2] / k[2]) + kTileRows - 1) / kTileRows;
  if (q[0] > kMaxGridYZ || tiles > kMaxGridYZ / k[2] || q[0] * q[1] >= kMaxKeys / q[2]) {
    return InvalidArgument(kName, Describe(x.q), " has too many rows; split the batch");
  }
  return ffi::Error::Success();
}

ffi::Error CheckBuffers(const DecodeBuffers& x) {
  JAX_FA4_RETURN_IF_ERROR(CheckCache(x));
  const auto q = x.q.buffer.dimensions();
  const int64_t head_dim_v = x.v.buffer.dimensions()[3];
  for (const Named* argument : {&x.page_table, &x.lengths}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, *argument, ffi::DataType::S32));
  }
  for (const Named* argument : {&x.sinks, &x.lse, &x.out_partial, &x.lse_partial}) {
    JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, *argument, ffi::DataType::F32));
  }
  JAX_FA4_RETURN_IF_ERROR(CheckDType(kName, x.out, x.q.buffer.element_type()));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, x.lengths, {q[0]}, "(batch,)"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, x.sinks, {q[2]}, "(heads_q,)"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, x.out, {q[0], q[1], q[2], head_dim_v},
                                     "the same as q with the head_dim of v"));
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, x.lse, {q[0], q[2], q[1]}, "(batch, heads_q, seqlen_q)"));
  JAX_FA4_RETURN_IF_ERROR(CheckRank(kName, x.lse_partial, 4, "(parts, batch, heads_q, seqlen_q)"));
  const int64_t parts = x.lse_partial.buffer.dimensions()[0];
  JAX_FA4_RETURN_IF_ERROR(
      CheckShape(kName, x.lse_partial, {parts, q[0], q[2], q[1]}, "parts of lse"));
  JAX_FA4_RETURN_IF_ERROR(CheckShape(kName, x.out_partial, {parts, q[0], q[2], q[1], head_dim_v},
                                     "(parts, batch, heads_q, seqlen_q, head_dim_v)"));
  for (const Named* argument : {&x.q, &x.k, &x.v, &x.page_table, &x.lengths, &x.sinks, &x.out,
                                &x.lse, &x.out_partial, &x.lse_partial}) {
    JAX_FA4_RETURN_IF_ERROR(CheckAligned(kName, *argument));
  }
  return ffi::Error::Success();
}

ffi::Error CheckSoftcap(float softcap) {
  if (std::isfinite(softcap) && softcap >= 0.0f) return ffi::Error::Success();
  return InvalidArgument(kName, "softcap ", softcap, " must be finite and at least 0");
}

DecodeArguments MakeArguments(const DecodeBuffers& x, const DecodeScalars& scalars) {
  const auto q = x.q.buffer.dimensions(), k = x.k.buffer.dimensions();
  DecodeArguments arguments{};
  arguments.q = x.q.buffer.untyped_data();
  arguments.k = x.k.buffer.untyped_data();
  arguments.v = x.v.buffer.untyped_data();
  arguments.page_table = x.page_table.buffer.untyped_data();
  arguments.lengths = x.lengths.buffer.untyped_data();
  arguments.sinks = x.sinks.buffer.untyped_data();
  arguments.out = x.out.buffer.untyped_data();
  arguments.lse = x.lse.buffer.untyped_data();
  arguments.out_partial = x.out_partial.buffer.untyped_data();
  arguments.lse_partial = x.lse_partial.buffer.untyped_data();
  arguments.batch = static_cast<int32_t>(q[0]);
  arguments.seqlen_q = static_cast<int32_t>(q[1]);
  arguments.heads_q = static_cast<int32_t>(q[2]);
  arguments.heads_kv = static_cast<int32_t>(k[2]);
  arguments.head_dim = static_cast<int32_t>(q[3]);
  arguments.head_dim_v = static_cast<int32_t>(x.v.buffer.dimensions()[3]);
  arguments.num_pages = static_cast<int32_t>(k[0]);
  arguments.page_size = static_cast<int32_t>(k[1]);
  arguments.pages_per_sequence = static_cast<int32_t>(x.page_table.buffer.dimensions()[1]);
  arguments.num_splits = static_cast<int32_t>(x.lse_partial.buffer.dimensions()[0]);
  arguments.softmax_scale = scalars.attention.softmax_scale;
  arguments.softcap = scalars.softcap;
  arguments.band_lower = scalars.attention.band_lower;
  arguments.band_upper = scalars.attention.band_upper;
  return arguments;
}

DecodeCombineArguments MakeCombineArguments(const DecodeArguments& main) {
  DecodeCombineArguments arguments{};
  arguments.out_partial = main.out_partial;
  arguments.lse_partial = main.lse_partial;
  arguments.lengths = main.lengths;
  arguments.sinks = main.sinks;
  arguments.out = main.out;
  arguments.lse = main.lse;
  arguments.batch = main.batch;
  arguments.seqlen_q = main.seqlen_q;
  arguments.heads_q = main.heads_q;
  arguments.head_dim_v = main.head_dim_v;
  arguments.capacity = main.page_size * main.pages_per_sequence;
  arguments.num_splits = main.num_splits;
  arguments.band_lower = main.band_lower;
  arguments.band_upper = main.band_upper;
  return arguments;
}

// A checked call, whatever is to run it.
class DecodeCall {
 public:
  ffi::Error Prepare(const DecodeBuffers& buffers, std::string_view variants,
                     const DecodeScalars& scalars) {
    JAX_FA4_RETURN_IF_ERROR(CheckBuffers(buffers));
    JAX_FA4_RETURN_IF_ERROR(CheckScalars(kName, scalars.attention));
    JAX_FA4_RETURN_IF_ERROR(CheckSoftcap(scalars.softcap));
    operation_ = {kName, VariantKind::kDecode, variants};
    JAX_FA4_RETURN_IF_ERROR(FindVariants(operation_, &candidates_));
    JAX_FA4_RETURN_IF_ERROR(CheckVariants(kName, candidates_, buffers.q, buffers.v));
    const Variant* combine = nullptr;
    for (const Variant* variant : candidates_) {
      JAX_FA4_RETURN_IF_ERROR(FindHelper(kName, *variant, VariantKind::kDecodeCombine, &combine));
    }
    buffers_ = &buffers;
    main_ = MakeArguments(buffers, scalars);
    combine_ = MakeCombineArguments(main_);
    return ffi::Error::Success();
  }

  const Operation& operation() const { return operation_; }
  const std::vector<const Variant*>& candidates() const { return candidates_; }

  // Both kernels write results: the first those of sequences with one part, the second the others.
  KernelPlan Plan() {
    return [this](const Variant& variant) {
      const DecodeBuffers& x = *buffers_;
      const bool merges = main_.num_splits > 1;
      KernelMemory memory{{x.q, x.k, x.v, x.page_table, x.lengths, x.sinks}, {}, {}};
      auto& results = merges ? memory.updates : memory.writes;
      results = {x.out, x.lse};
      if (merges) memory.updates.insert(memory.updates.end(), {x.out_partial, x.lse_partial});
      std::vector<KernelLaunch> launches{{&variant, main_.Addresses(), {&main_.stream}, memory}};
      if (!merges) return launches;
      const Variant* combine = nullptr;  // it exists: Prepare
      (void)FindHelper(kName, variant, VariantKind::kDecodeCombine, &combine);
      launches.push_back(
          {combine,
           combine_.Addresses(),
           {&combine_.stream},
           {{x.out_partial, x.lse_partial, x.lengths, x.sinks}, {}, {x.out, x.lse}}});
      return launches;
    };
  }

 private:
  Operation operation_;
  std::vector<const Variant*> candidates_;
  const DecodeBuffers* buffers_ = nullptr;
  DecodeArguments main_{};
  DecodeCombineArguments combine_{};
};

// Arguments and results in the order of decode.h.
ffi::Error NameBuffers(const ffi::RemainingArgs& arguments, const ffi::RemainingRets& results,
                       std::optional<DecodeBuffers>* buffers) {
  std::vector<Named> in, out;
  JAX_FA4_RETURN_IF_ERROR(
      NameArguments(kName, arguments, {"q", "k", "v", "page_table", "lengths", "sinks"}, &in));
  JAX_FA4_RETURN_IF_ERROR(
      NameResults(kName, results, {"out", "lse", "out_partial", "lse_partial"}, &out));
  *buffers =
      DecodeBuffers{in[0], in[1], in[2], in[3], in[4], in[5], out[0], out[1], out[2], out[3]};
  return ffi::Error::Success();
}

ffi::Error Execute(ffi::Context context, ffi::RemainingArgs arguments, ffi::RemainingRets results,
                   std::string_view variants, float softmax_scale, float softcap,
                   int32_t band_lower, int32_t band_upper) {
  std::optional<DecodeBuffers> buffers;
  DecodeCall call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(
      call.Prepare(*buffers, variants, {{softmax_scale, band_lower, band_upper}, softcap}));
  return Launch(call.operation(), call.candidates(), context, call.Plan());
}

// The same on the emulator; the attributes are those above and the emulator's settings.
ffi::Error ExecuteEmulated(ffi::RemainingArgs arguments, ffi::RemainingRets results,
                           ffi::Dictionary attributes) {
  std::optional<DecodeBuffers> buffers;
  std::string_view variants;
  DecodeScalars scalars;
  EmulatorSettings settings;
  DecodeCall call;
  JAX_FA4_RETURN_IF_ERROR(NameBuffers(arguments, results, &buffers));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "variants", &variants));
  JAX_FA4_RETURN_IF_ERROR(ReadScalars(kName, attributes, &scalars.attention));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(kName, attributes, "softcap", &scalars.softcap));
  JAX_FA4_RETURN_IF_ERROR(ReadEmulatorSettings(kName, attributes, &settings));
  JAX_FA4_RETURN_IF_ERROR(call.Prepare(*buffers, variants, scalars));
  return LaunchEmulated(call.operation(), call.candidates(), settings, call.Plan());
}

ffi::Error InitializeDecode(ffi::Context context, ffi::Dictionary attributes) {
  return Initialize(kName, VariantKind::kDecode, context, attributes,
                    {VariantKind::kDecodeCombine});
}

}  // namespace
}  // namespace jax_fa4

using jax_fa4::Execute;
using jax_fa4::ExecuteEmulated;
using jax_fa4::InitializeDecode;

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_decode_v1, Execute,
                              ::xla::ffi::Ffi::Bind()
                                  .Ctx<::xla::ffi::Context>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<std::string_view>("variants")
                                  .Attr<float>("softmax_scale")
                                  .Attr<float>("softcap")
                                  .Attr<int32_t>("band_lower")
                                  .Attr<int32_t>("band_upper"),
                              {::xla::ffi::Traits::kCmdBufferCompatible});

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_decode_v1_initialize, InitializeDecode,
                              ::xla::ffi::Ffi::BindInitialize().Ctx<::xla::ffi::Context>().Attrs());

XLA_FFI_DEFINE_HANDLER_SYMBOL(jax_fa4_emulated_decode_v1, ExecuteEmulated,
                              ::xla::ffi::Ffi::Bind().RemainingArgs().RemainingRets().Attrs());
