// Floating point (PTX ISA, "Floating Point Instructions"). float32 arithmetic rounds to nearest
// even and keeps subnormals unless .ftz; a NaN result is the canonical 0x7fffffff.
#include <cmath>
#include <limits>

#include "emulator/isa/integer.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/packed.h"

namespace jax_fa4::emulator {
namespace {

float Bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

float Canonical(float value) { return std::isnan(value) ? Bits(0x7fffffffu) : value; }

float Flush(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

template <bool kFtz>
float In(float value) {
  return kFtz ? Flush(value) : value;
}

template <bool kFtz>
float Out(float value) {
  return Canonical(kFtz ? Flush(value) : value);
}

template <bool kFtz>
float Add(float a, float b) {
  return Out<kFtz>(In<kFtz>(a) + In<kFtz>(b));
}
template <bool kFtz>
float Sub(float a, float b) {
  return Out<kFtz>(In<kFtz>(a) - In<kFtz>(b));
}

// a b + c, which is `result` in float32. A result that is the smallest normal number only because
// subnormals lie as far apart as normals is a subnormal to .ftz: with 24 bits and an exponent of
// any size it would be less. So an H100 does; the manual does not say.
float FlushedSum(float a, float b, float c, float result) {
  constexpr double kFirstThatRoundsUp = 0x1.ffffffp-127;
  if (std::fabs(result) != std::numeric_limits<float>::min()) return Flush(result);
  const double product = static_cast<double>(a) * b;  // exact
  const double sum = product + c;
  const double part = sum - product;
  const double rest = (product - (sum - part)) + (c - part);  // what the sum lost
  const bool less = std::fabs(sum) < kFirstThatRoundsUp ||
                    (std::fabs(sum) == kFirstThatRoundsUp && rest * sum < 0);
  return less ? std::copysign(0.0f, result) : result;
}

template <bool kFtz>
float Fma(float a, float b, float c) {
  if (!kFtz) return Canonical(std::fma(a, b, c));
  a = Flush(a);
  b = Flush(b);
  c = Flush(c);
  return Canonical(FlushedSum(a, b, c, std::fma(a, b, c)));
}
template <bool kFtz>
float Mul(float a, float b) {
  if (!kFtz) return Canonical(a * b);
  a = Flush(a);
  b = Flush(b);
  return Canonical(FlushedSum(a, b, 0.0f, a * b));
}
template <bool kFtz>
float Div(float a, float b) {
  return Out<kFtz>(In<kFtz>(a) / In<kFtz>(b));
}

// -0 < +0; a NaN gives way to a number, two give the canonical one.
template <bool kFtz>
float Max(float a, float b) {
  a = In<kFtz>(a);
  b = In<kFtz>(b);
  if (std::isnan(a)) return Canonical(b);
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? b : a;
  return a > b ? a : b;
}
template <bool kFtz>
float Min(float a, float b) {
  a = In<kFtz>(a);
  b = In<kFtz>(b);
  if (std::isnan(a)) return Canonical(b);
  if (std::isnan(b)) return a;
  if (a == b) return std::signbit(a) ? a : b;
  return a < b ? a : b;
}
template <bool kFtz>
float Min3(float a, float b, float c) {
  return Min<kFtz>(Min<kFtz>(a, b), c);
}
template <bool kFtz>
float Max3(float a, float b, float c) {
  return Max<kFtz>(Max<kFtz>(a, b), c);
}
// The NaN is unspecified by the manual; canonical on an H100.
template <bool kFtz>
float Neg(float a) {
  return Canonical(-In<kFtz>(a));
}
template <bool kFtz>
float Abs(float a) {
  return Canonical(std::fabs(In<kFtz>(a)));
}

void Operands(Decoder& decoder, const Instruction& instruction, size_t sources, Op* op) {
  decoder.ExpectOperands(instruction, sources + 1);
  op->d = decoder.Destination(instruction.operands[0], 4);
  op->a = decoder.Source(instruction.operands[1], 4);
  if (sources > 1) op->b = decoder.Source(instruction.operands[2], 4);
  if (sources > 2) op->c = decoder.Source(instruction.operands[3], 4);
}

void DecodeArithmetic(Decoder& decoder, const Instruction& instruction, Op* op) {
  if (DecodeIntegerArithmetic(decoder, instruction, op)) return;
  if (DecodePackedArithmetic(decoder, instruction, op)) return;
  Modifiers modifiers(decoder, instruction);
  const std::string& name = instruction.opcode[0];
  const bool rounds =
      name == "add" || name == "sub" || name == "mul" || name == "div" || name == "fma";
  if (rounds) modifiers.Take("rn");
  const bool ftz = modifiers.Take("ftz");
  modifiers.OneOf({"f32"});
  modifiers.Done();
  const size_t given = instruction.operands.size();
  const bool three = (name == "max" || name == "min") && given == 4;
  const size_t sources = name == "neg" || name == "abs" ? 1 : name == "fma" || three ? 3 : 2;
  Operands(decoder, instruction, sources, op);
#define PICK(shape, function) \
  (ftz ? Handler(shape<float, function<true>>) : Handler(shape<float, function<false>>))
  op->run = name == "add"   ? PICK(Binary, Add)
            : name == "sub" ? PICK(Binary, Sub)
            : name == "mul" ? PICK(Binary, Mul)
            : name == "div" ? PICK(Binary, Div)
            : name == "fma" ? PICK(Ternary, Fma)
            : three         ? (name == "max" ? PICK(Ternary, Max3) : PICK(Ternary, Min3))
            : name == "max" ? PICK(Binary, Max)
            : name == "min" ? PICK(Binary, Min)
            : name == "neg" ? PICK(Unary, Neg)
                            : PICK(Unary, Abs);
#undef PICK
}

}  // namespace

void RegisterFloat(InstructionTable* table) {
  for (const char* name : {"add", "sub", "mul", "div", "fma", "min", "max", "neg", "abs"}) {
    (*table)[name] = DecodeArithmetic;
  }
}

}  // namespace jax_fa4::emulator
