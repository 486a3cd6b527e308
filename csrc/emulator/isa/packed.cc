// Pairs of float32 (.f32x2) and products of mixed precision (PTX ISA, "Floating Point
// Instructions", "Mixed Precision Floating Point Instructions").
#include "emulator/isa/packed.h"

#include <cfenv>
#include <cmath>

#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

// Written for the compiler to vectorise, with the processor's own fused multiply-add.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_UNDEFINED__)
#define JAX_FA4_VECTORISED \
  __attribute__((target_clones("arch=x86-64-v3", "default"), optimize("O3")))
#else
#define JAX_FA4_VECTORISED
#endif

namespace jax_fa4::emulator {
namespace {

constexpr int kFloats = 64;  // of 32 pairs

inline float Canonical(float value) { return value != value ? FloatOf(0x7fffffffu) : value; }

inline float Flush(float value) {
  return std::fabs(value) < 1.17549435e-38f ? std::copysign(0.0f, value) : value;
}

enum class Operation { kAdd, kSub, kMul, kFma };

template <Operation kOperation>
inline float Apply(float a, float b, float c) {
  switch (kOperation) {
    case Operation::kAdd:
      return a + b;
    case Operation::kSub:
      return a - b;
    case Operation::kMul:
      return a * b;
    default:
      return std::fma(a, b, c);
  }
}

#define JAX_FA4_PAIRS(name, operation)                                                      \
  JAX_FA4_VECTORISED void name(const float* a, const float* b, const float* c, float* d) {  \
    for (int i = 0; i < kFloats; ++i) d[i] = Canonical(Apply<operation>(a[i], b[i], c[i])); \
  }
JAX_FA4_PAIRS(AddPairs, Operation::kAdd)
JAX_FA4_PAIRS(SubPairs, Operation::kSub)
JAX_FA4_PAIRS(MulPairs, Operation::kMul)
JAX_FA4_PAIRS(FmaPairs, Operation::kFma)
#undef JAX_FA4_PAIRS

template <auto Function>
void ForPairs(Warp& warp, const Op& op, bool flush) {
  float* d = warp.Lanes<float>(op.d);
  const float* a = warp.Lanes<float>(op.a);
  const float* b = warp.Lanes<float>(op.b);
  const float* c = warp.Lanes<float>(op.c == kNoSlot ? op.a : op.c);
  if (warp.exec == kAllLanes && !flush) return Function(a, b, c, d);
  float in[3][kFloats], out[kFloats];
  for (int i = 0; i < kFloats; ++i) {
    in[0][i] = flush ? Flush(a[i]) : a[i];
    in[1][i] = flush ? Flush(b[i]) : b[i];
    in[2][i] = flush ? Flush(c[i]) : c[i];
  }
  Function(in[0], in[1], in[2], out);
  ForLanes(warp.exec, [&](int lane) {
    for (int i = 2 * lane; i < 2 * lane + 2; ++i) d[i] = flush ? Flush(out[i]) : out[i];
  });
}

// op.small: rounding as of <cfenv>, by kRoundings; op.target: .ftz.
constexpr int kRoundings[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

template <auto Function>
Step Pairs(Warp& warp, const Op& op) {
  if (op.small == 0) {
    ForPairs<Function>(warp, op, op.target != 0);
    return Step::kNext;
  }
  const int before = std::fegetround();
  std::fesetround(kRoundings[op.small]);
  ForPairs<Function>(warp, op, op.target != 0);
  std::fesetround(before);
  return Step::kNext;
}

template <auto Widen>
Step MixedFma(Warp& warp, const Op& op) {
  float* d = warp.Lanes<float>(op.d);
  const uint32_t* a = warp.Lanes<uint32_t>(op.a);
  const uint32_t* b = warp.Lanes<uint32_t>(op.b);
  const float* c = warp.Lanes<float>(op.c);
  ForLanes(warp.exec, [&](int lane) {
    d[lane] = Canonical(std::fma(Widen(static_cast<uint16_t>(a[lane])),
                                 Widen(static_cast<uint16_t>(b[lane])), c[lane]));
  });
  return Step::kNext;
}

void DecodeMixed(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"rn"});
  modifiers.OneOf({"f32"});
  const std::string_view type = modifiers.OneOf({"bf16", "f16"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 4);
  op->run = type == "bf16" ? Handler(MixedFma<FloatFromBFloat16>) : MixedFma<FloatFromHalf>;
}

void DecodePairs(Decoder& decoder, const Instruction& instruction, Op* op) {
  static constexpr std::string_view kNames[] = {"rn", "rz", "rm", "rp"};
  Modifiers modifiers(decoder, instruction);
  const std::string& name = instruction.opcode[0];
  for (uint8_t i = 0; i < 4; ++i) {
    if (!modifiers.Take(kNames[i])) continue;
    op->small = i;
    break;
  }
  op->target = modifiers.Take("ftz") ? 1 : 0;
  modifiers.OneOf({"f32x2"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, name == "fma" ? 4 : 3);
  op->run = name == "add"   ? Handler(Pairs<AddPairs>)
            : name == "sub" ? Handler(Pairs<SubPairs>)
            : name == "mul" ? Handler(Pairs<MulPairs>)
                            : Handler(Pairs<FmaPairs>);
}

}  // namespace

bool DecodePackedArithmetic(Decoder& decoder, const Instruction& instruction, Op* op) {
  const std::string& name = instruction.opcode[0];
  const bool pairs = instruction.Has("f32x2");
  const bool mixed = name == "fma" && (instruction.Has("bf16") || instruction.Has("f16"));
  if (!pairs && !mixed) return false;
  if (pairs && name != "add" && name != "sub" && name != "mul" && name != "fma") return false;
  pairs ? DecodePairs(decoder, instruction, op) : DecodeMixed(decoder, instruction, op);
  const int narrow = pairs ? 8 : 4;
  op->d = decoder.Destination(instruction.operands[0], narrow);
  op->a = decoder.Source(instruction.operands[1], narrow);
  op->b = decoder.Source(instruction.operands[2], narrow);
  if (name == "fma") op->c = decoder.Source(instruction.operands[3], narrow);
  return true;
}

}  // namespace jax_fa4::emulator
