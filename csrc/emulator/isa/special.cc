// Approximate functions (PTX ISA, "ex2", "lg2", "rcp", "rsqrt", "tanh").
//
// Without tables they are correctly rounded, and hardware may differ by what the manual allows
// (ex2: 2 ulp, rcp: 1 ulp, lg2: 2^-22). With tables, ex2 and rcp are an H100's, bit for bit:
// ex2(n + f) = 2^n ex2(f) and ex2(-n - f) = 2^-n ex2(-f), where f is cut to 23 bits.
#include "emulator/isa/special.h"

#include <cmath>

#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

constexpr double kSteps = static_cast<double>(SpecialTables::kEntries);

float Flush(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

float Result(double value) {
  const float rounded = static_cast<float>(value);
  return std::isnan(rounded) ? FloatOf(0x7fffffffu) : Flush(rounded);
}

// The neighbour of `value` that is `ulps` further from zero.
float Nudged(double value, int ulps) {
  return FloatOf(BitsOf(static_cast<float>(value)) + static_cast<uint32_t>(ulps));
}

float Ex2(const SpecialTables* tables, float a) {
  a = Flush(a);
  constexpr float kLargest = 150.0f;  // past this the result is infinite or zero
  if (tables == nullptr || !(std::fabs(a) < kLargest)) {
    return Result(std::exp2(static_cast<double>(a)));
  }
  const bool negative = std::signbit(a);
  const double magnitude = std::fabs(static_cast<double>(a));
  const double whole = std::floor(magnitude);
  const size_t index = static_cast<size_t>((magnitude - whole) * kSteps);
  const double fraction = static_cast<double>(index) / kSteps;
  const float mantissa = Nudged(std::exp2(negative ? -fraction : fraction),
                                (negative ? tables->ex2_negative : tables->ex2_positive)[index]);
  return Result(
      std::ldexp(static_cast<double>(mantissa), static_cast<int>(negative ? -whole : whole)));
}

float Rcp(const SpecialTables* tables, float a) {
  a = Flush(a);
  if (tables == nullptr || !std::isnormal(a)) return Result(1.0 / static_cast<double>(a));
  const uint32_t bits = BitsOf(a);
  const uint32_t index = bits & 0x7fffffu;
  const int exponent = static_cast<int>(bits >> 23 & 0xffu) - 127;
  const float mantissa = Nudged(1.0 / (1.0 + index / kSteps), tables->rcp[index]);
  return std::copysign(Result(std::ldexp(static_cast<double>(mantissa), -exponent)), a);
}

float RcpRn(const SpecialTables*, float a) {
  const float result = 1.0f / a;
  return std::isnan(result) ? FloatOf(0x7fffffffu) : result;
}
float Lg2(const SpecialTables*, float a) {
  return Result(std::log2(static_cast<double>(Flush(a))));
}
float Rsqrt(const SpecialTables*, float a) {
  return Result(1.0 / std::sqrt(static_cast<double>(Flush(a))));
}
float Tanh(const SpecialTables*, float a) {
  const float result = static_cast<float>(std::tanh(static_cast<double>(a)));
  return std::isnan(result) ? FloatOf(0x7fffffffu) : result;
}

template <auto Function>
Step Apply(Warp& warp, const Op& op) {
  const SpecialTables* tables = warp.machine->options.special_tables;
  float* d = warp.Lanes<float>(op.d);
  const float* a = warp.Lanes<float>(op.a);
  ForLanes(warp.exec, [&](int lane) { d[lane] = Function(tables, a[lane]); });
  return Step::kNext;
}

void DecodeSpecial(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string& name = instruction.opcode[0];
  if (name == "rcp" && modifiers.Take("rn")) {
    op->run = Apply<RcpRn>;
  } else {
    modifiers.OneOf({"approx"});
    if (name != "tanh") modifiers.OneOf({"ftz"});
    op->run = name == "ex2"     ? Handler(Apply<Ex2>)
              : name == "lg2"   ? Handler(Apply<Lg2>)
              : name == "rcp"   ? Handler(Apply<Rcp>)
              : name == "rsqrt" ? Handler(Apply<Rsqrt>)
                                : Handler(Apply<Tanh>);
  }
  modifiers.OneOf({"f32"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 2);
  op->d = decoder.Destination(instruction.operands[0], 4);
  op->a = decoder.Source(instruction.operands[1], 4);
}

}  // namespace

void RegisterSpecial(InstructionTable* table) {
  for (const char* name : {"ex2", "lg2", "rcp", "rsqrt", "tanh"}) (*table)[name] = DecodeSpecial;
}

}  // namespace jax_fa4::emulator
