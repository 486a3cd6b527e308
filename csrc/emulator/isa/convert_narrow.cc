// cvt to and from the float formats of 8, 16 and 19 bits, in every rounding (PTX ISA, "cvt").
#include <cmath>

#include "emulator/isa/convert.h"
#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

struct Narrow {
  int exponent_bits, fraction_bits;
  bool has_infinity;  // otherwise all ones is NaN, and the pattern before it a number
  int low_zeros;      // tf32 lies in the upper bits of a register

  int Bias() const { return (1 << (exponent_bits - 1)) - 1; }
  uint32_t Nan() const { return (1u << (exponent_bits + fraction_bits)) - 1; }
  uint32_t Largest() const {
    return has_infinity ? (((1u << exponent_bits) - 1) << fraction_bits) - 1 : Nan() - 1;
  }
};

constexpr std::string_view kNames[] = {"f16", "bf16", "tf32", "e4m3", "e5m2"};
constexpr Narrow kFormats[] = {
    {5, 10, true, 0}, {8, 7, true, 0}, {8, 10, true, 13}, {4, 3, false, 0}, {5, 2, true, 0}};

enum class Rounding : uint8_t { kNearestEven, kTowardsZero, kNearestAway };

// An integer near `scaled`, which is not negative and below 2^24.
double Rounded(double scaled, Rounding rounding) {
  if (rounding == Rounding::kTowardsZero) return std::floor(scaled);
  return std::nearbyint(scaled);
}

// op.small: the rounding, and these two.
constexpr uint8_t kRelu = 4, kSaturates = 8;

// cvt.rna.tf32.f32 as an H100 does it, which adds to the bits: a NaN loses its low bits, so that it
// may become an infinity, and .satfinite takes the number before whatever is not finite. The manual
// wants a NaN for a NaN.
uint32_t EncodeAway(float value, bool saturates) {
  constexpr uint32_t kLast = 1u << 13, kInfinity = 0x7f800000u;
  const uint32_t sign = BitsOf(value) & 0x80000000u;
  uint32_t magnitude = BitsOf(value) & 0x7fffffffu;
  if (magnitude < kInfinity) magnitude += kLast / 2;
  magnitude &= ~(kLast - 1);
  if (saturates && magnitude >= kInfinity) magnitude -= kLast;
  return sign | magnitude;
}

uint32_t Encode(float value, const Narrow& format, uint8_t how) {
  if (static_cast<Rounding>(how & 3) == Rounding::kNearestAway) {
    return EncodeAway(value, (how & kSaturates) != 0);
  }
  const Rounding rounding = static_cast<Rounding>(how & 3);
  const uint32_t top = 1u << (format.exponent_bits + format.fraction_bits);
  if (std::isnan(value)) return format.Nan() << format.low_zeros;
  const bool negative = std::signbit(value);
  if (negative && (how & kRelu) != 0) return 0;
  const uint32_t sign = negative ? top : 0;
  const uint32_t infinity = format.has_infinity ? format.Largest() + 1 : format.Nan();
  uint32_t bits = infinity;
  if (!std::isinf(value)) {
    const double magnitude = std::fabs(static_cast<double>(value));
    const int smallest = 1 - format.Bias() - format.fraction_bits;
    const int exponent = magnitude == 0
                             ? smallest
                             : std::max(std::ilogb(magnitude) - format.fraction_bits, smallest);
    // The implicit bit adds one to the exponent's field, and so does a carry of the rounding.
    const double significand = Rounded(std::ldexp(magnitude, -exponent), rounding);
    const uint64_t sum = static_cast<uint64_t>(significand) +
                         (static_cast<uint64_t>(exponent - smallest) << format.fraction_bits);
    bits = static_cast<uint32_t>(std::min<uint64_t>(sum, infinity));
    if (bits == infinity && rounding == Rounding::kTowardsZero) bits = format.Largest();
  }
  if ((how & kSaturates) != 0) bits = std::min(bits, format.Largest());
  return (sign | bits) << format.low_zeros;
}

// op.target = the format's number.
Step FromFloat(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const float* a = warp.Lanes<float>(op.a);
  const Narrow& format = kFormats[op.target];
  ForLanes(warp.exec, [&](int lane) { d[lane] = Encode(a[lane], format, op.small); });
  return Step::kNext;
}

// a goes to the upper half of d, b to the lower one.
Step PairFromFloats(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const float* a = warp.Lanes<float>(op.a);
  const float* b = warp.Lanes<float>(op.b);
  const Narrow& format = kFormats[op.target];
  const int width = 1 + format.exponent_bits + format.fraction_bits;
  ForLanes(warp.exec, [&](int lane) {
    const uint32_t high = Encode(a[lane], format, op.small);
    d[lane] = high << width | Encode(b[lane], format, op.small);
  });
  return Step::kNext;
}

// Two of 16 bits to two of 8.
Step PairFromHalves(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const uint32_t* a = warp.Lanes<uint32_t>(op.a);
  const Narrow& format = kFormats[op.target];
  ForLanes(warp.exec, [&](int lane) {
    const float high = FloatFromHalf(static_cast<uint16_t>(a[lane] >> 16));
    const float low = FloatFromHalf(static_cast<uint16_t>(a[lane]));
    d[lane] = Encode(high, format, op.small) << 8 | Encode(low, format, op.small);
  });
  return Step::kNext;
}

// Two of 8 bits to two of float16, which has all their values.
template <auto Widen>
Step HalvesFromPair(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const uint32_t* a = warp.Lanes<uint32_t>(op.a);
  ForLanes(warp.exec, [&](int lane) {
    const float high = Widen(static_cast<uint8_t>(a[lane] >> 8));
    const float low = Widen(static_cast<uint8_t>(a[lane]));
    d[lane] = Encode(high, kFormats[0], op.small) << 16 | Encode(low, kFormats[0], op.small);
  });
  return Step::kNext;
}

float FloatFromE5M2(uint8_t bits) { return FloatFromHalf(static_cast<uint16_t>(bits << 8)); }

int FormatOf(std::string_view name) {
  for (int i = 0; i < 5; ++i) {
    if (kNames[i] == name) return i;
  }
  return -1;
}

}  // namespace

bool DecodeNarrowConversion(Decoder& decoder, const Instruction& instruction, Op* op) {
  const auto& words = instruction.opcode;
  if (words.size() < 3) return false;
  const std::string_view to = words[words.size() - 2], from = words.back();
  const bool pair = to.size() > 2 && to.substr(to.size() - 2) == "x2";
  op->target = FormatOf(pair ? to.substr(0, to.size() - 2) : to);
  const bool bytes = op->target >= 3;
  const bool widens = to == "f16x2" && (from == "e4m3x2" || from == "e5m2x2");
  if (op->target < 0 || (to == "tf32x2") || (bytes && !pair)) return false;
  if (from != "f32" && !widens && !(bytes && from == "f16x2")) return false;

  Modifiers modifiers(decoder, instruction);
  if (modifiers.Take("rna")) {
    if (to != "tf32") decoder.Fail(instruction, "only tf32 is rounded away from zero");
    op->small = static_cast<uint8_t>(Rounding::kNearestAway);
  } else if (!bytes && !widens && modifiers.Take("rz")) {
    op->small = static_cast<uint8_t>(Rounding::kTowardsZero);
  } else {
    modifiers.OneOf({"rn"});
  }
  const auto take_relu = [&] {
    if ((op->small & kRelu) == 0 && modifiers.Take("relu")) op->small |= kRelu;
  };
  take_relu();
  if (bytes) modifiers.OneOf({"satfinite"});
  if (bytes || (!widens && modifiers.Take("satfinite"))) op->small |= kSaturates;
  take_relu();
  modifiers.OneOf({to});
  modifiers.OneOf({from});
  modifiers.Done();
  const bool two = pair && from == "f32";
  decoder.ExpectOperands(instruction, two ? 3 : 2);
  op->run = widens            ? (from == "e4m3x2" ? Handler(HalvesFromPair<FloatFromE4M3>)
                                                  : Handler(HalvesFromPair<FloatFromE5M2>))
            : two             ? Handler(PairFromFloats)
            : from == "f16x2" ? Handler(PairFromHalves)
                              : Handler(FromFloat);
  op->d = decoder.Destination(instruction.operands[0], 4);
  op->a = decoder.Source(instruction.operands[1], 4);
  if (two) op->b = decoder.Source(instruction.operands[2], 4);
  return true;
}

}  // namespace jax_fa4::emulator
