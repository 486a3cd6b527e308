// cvt, cvta (PTX ISA, "Data Movement and Conversion Instructions").
#include "emulator/isa/convert.h"

#include <cmath>
#include <limits>

#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// The register may be wider than the type: a signed value then fills it with its sign.
template <typename T>
typename LaneOf<T>::type Extended(T value) {
  if constexpr (std::is_signed_v<T> && sizeof(T) < 4) {
    return static_cast<uint32_t>(int32_t{value});
  } else {
    return ToLane<T>(value);
  }
}

template <typename To, typename From>
Step IntegerToInteger(Warp& warp, const Op& op) {
  auto* d = warp.Lanes<typename LaneOf<To>::type>(op.d);
  const auto* a = warp.Lanes<typename LaneOf<From>::type>(op.a);
  ForLanes(warp.exec,
           [&](int lane) { d[lane] = Extended(static_cast<To>(static_cast<From>(a[lane]))); });
  return Step::kNext;
}

// To the nearest integer by `kRound`, then to the nearest that T has. A NaN gives zero; in 64 bits
// only the highest bit (PTX ISA, "cvt", integer notes).
template <typename T, float (*kRound)(float)>
Step FloatToInteger(Warp& warp, const Op& op) {
  using Limits = std::numeric_limits<T>;
  auto* d = warp.Lanes<typename LaneOf<T>::type>(op.d);
  const float* a = warp.Lanes<float>(op.a);
  ForLanes(warp.exec, [&](int lane) {
    const float value = kRound(a[lane]);
    const float above = std::ldexp(1.0f, Limits::digits);  // the first that is too large
    T result = 0;
    if (value >= above) {
      result = Limits::max();
    } else if (value < static_cast<float>(Limits::min())) {
      result = Limits::min();
    } else if (!std::isnan(value)) {
      result = static_cast<T>(value);
    } else if (sizeof(T) == 8) {
      result = static_cast<T>(uint64_t{1} << 63);
    }
    d[lane] = ToLane<T>(result);
  });
  return Step::kNext;
}

float NearestEven(float value) { return std::nearbyint(value); }
float TowardsZero(float value) { return std::trunc(value); }
float Downwards(float value) { return std::floor(value); }
float Upwards(float value) { return std::ceil(value); }

template <typename T>
Handler FloatToIntegerBy(std::string_view rounding) {
  if (rounding == "rni") return FloatToInteger<T, NearestEven>;
  if (rounding == "rzi") return FloatToInteger<T, TowardsZero>;
  if (rounding == "rmi") return FloatToInteger<T, Downwards>;
  return FloatToInteger<T, Upwards>;
}

Handler IntegerFromFloat(std::string_view to, std::string_view rounding) {
  if (to == "s32") return FloatToIntegerBy<int32_t>(rounding);
  if (to == "u32") return FloatToIntegerBy<uint32_t>(rounding);
  if (to == "s64") return FloatToIntegerBy<int64_t>(rounding);
  if (to == "u64") return FloatToIntegerBy<uint64_t>(rounding);
  return nullptr;
}

template <typename From>
Handler IntegerFrom(std::string_view to) {
  if (to == "s8") return IntegerToInteger<int8_t, From>;
  if (to == "u8") return IntegerToInteger<uint8_t, From>;
  if (to == "s16") return IntegerToInteger<int16_t, From>;
  if (to == "u16") return IntegerToInteger<uint16_t, From>;
  if (to == "s32") return IntegerToInteger<int32_t, From>;
  if (to == "u32") return IntegerToInteger<uint32_t, From>;
  if (to == "s64") return IntegerToInteger<int64_t, From>;
  if (to == "u64") return IntegerToInteger<uint64_t, From>;
  return nullptr;
}

Handler IntegerConversion(std::string_view to, std::string_view from) {
  if (from == "s8") return IntegerFrom<int8_t>(to);
  if (from == "u8") return IntegerFrom<uint8_t>(to);
  if (from == "s16") return IntegerFrom<int16_t>(to);
  if (from == "u16") return IntegerFrom<uint16_t>(to);
  if (from == "s32") return IntegerFrom<int32_t>(to);
  if (from == "u32") return IntegerFrom<uint32_t>(to);
  if (from == "s64") return IntegerFrom<int64_t>(to);
  if (from == "u64") return IntegerFrom<uint64_t>(to);
  return nullptr;
}

template <typename From>
Step IntegerToFloat(Warp& warp, const Op& op) {
  float* d = warp.Lanes<float>(op.d);
  const auto* a = warp.Lanes<typename LaneOf<From>::type>(op.a);
  ForLanes(warp.exec, [&](int lane) { d[lane] = static_cast<float>(static_cast<From>(a[lane])); });
  return Step::kNext;
}

// A NaN is canonical, as an H100 has it; that of bfloat16, which is a float's upper half, is not.
float CanonicalFromHalf(uint16_t bits) {
  const float value = FloatFromHalf(bits);
  return std::isnan(value) ? FloatOf(0x7fffffffu) : value;
}

template <auto Function>
Step HalfToFloat(Warp& warp, const Op& op) {
  float* d = warp.Lanes<float>(op.d);
  const uint32_t* a = warp.Lanes<uint32_t>(op.a);
  ForLanes(warp.exec, [&](int lane) { d[lane] = Function(static_cast<uint16_t>(a[lane])); });
  return Step::kNext;
}

template <auto Function>
Step FloatToHalf(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const float* a = warp.Lanes<float>(op.a);
  ForLanes(warp.exec, [&](int lane) { d[lane] = Function(a[lane]); });
  return Step::kNext;
}

// a goes to the high half, b to the low one.
template <auto Function>
Step FloatsToPair(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const float* a = warp.Lanes<float>(op.a);
  const float* b = warp.Lanes<float>(op.b);
  ForLanes(warp.exec, [&](int lane) {
    d[lane] = static_cast<uint32_t>(Function(a[lane])) << 16 | Function(b[lane]);
  });
  return Step::kNext;
}

// cvt.rn to 16 bits, which attention is full of, have handlers of their own below.
bool IsPlainNarrowing(const Instruction& instruction) {
  const auto& words = instruction.opcode;
  return words.size() == 4 && words[1] == "rn" && words[2].find("16") != std::string::npos &&
         words[3] == "f32";
}

void DecodeCvt(Decoder& decoder, const Instruction& instruction, Op* op) {
  if (!IsPlainNarrowing(instruction) && DecodeNarrowConversion(decoder, instruction, op)) return;
  Modifiers modifiers(decoder, instruction);
  const bool rounds = modifiers.Take("rn");
  std::string_view to_integer;
  for (const char* rounding : {"rni", "rzi", "rmi", "rpi"}) {
    if (!rounds && to_integer.empty() && modifiers.Take(rounding)) to_integer = rounding;
  }
  const std::string_view to = modifiers.Next();
  const std::string_view from = modifiers.Next();
  modifiers.Done();
  const bool pair = to == "bf16x2" || to == "f16x2";
  decoder.ExpectOperands(instruction, pair ? 3 : 2);
  Handler handler = nullptr;
  if (!to_integer.empty()) {
    if (from == "f32") handler = IntegerFromFloat(to, to_integer);
  } else if (rounds && from == "f32") {
    if (to == "bf16x2") handler = FloatsToPair<BFloat16FromFloat>;
    if (to == "f16x2") handler = FloatsToPair<HalfFromFloat>;
    if (to == "bf16") handler = FloatToHalf<BFloat16FromFloat>;
    if (to == "f16") handler = FloatToHalf<HalfFromFloat>;
  } else if (rounds && to == "f32") {
    if (from == "s8") handler = IntegerToFloat<int8_t>;
    if (from == "u8") handler = IntegerToFloat<uint8_t>;
    if (from == "s16") handler = IntegerToFloat<int16_t>;
    if (from == "u16") handler = IntegerToFloat<uint16_t>;
    if (from == "s32") handler = IntegerToFloat<int32_t>;
    if (from == "u32") handler = IntegerToFloat<uint32_t>;
    if (from == "s64") handler = IntegerToFloat<int64_t>;
    if (from == "u64") handler = IntegerToFloat<uint64_t>;
  } else if (!rounds && to == "f32") {
    if (from == "bf16") handler = HalfToFloat<FloatFromBFloat16>;
    if (from == "f16") handler = HalfToFloat<CanonicalFromHalf>;
  } else if (!rounds) {
    handler = IntegerConversion(to, from);
  }
  if (handler == nullptr) decoder.Fail(instruction, "this conversion is not supported");
  op->run = handler;
  op->d = decoder.Destination(instruction.operands[0], LaneBytes(to));
  op->a = decoder.Source(instruction.operands[1], LaneBytes(from));
  if (pair) op->b = decoder.Source(instruction.operands[2], 4);
}

Step AddWindow(Warp& warp, const Op& op) {
  uint64_t* d = warp.Lanes<uint64_t>(op.d);
  const uint64_t* a = warp.Lanes<uint64_t>(op.a);
  const uint64_t window = static_cast<uint64_t>(op.immediate);
  ForLanes(warp.exec, [&](int lane) { d[lane] = a[lane] + window; });
  return Step::kNext;
}

Step RemoveWindow(Warp& warp, const Op& op) {
  uint64_t* d = warp.Lanes<uint64_t>(op.d);
  const uint64_t* a = warp.Lanes<uint64_t>(op.a);
  const uint64_t window = static_cast<uint64_t>(op.immediate);
  ForLanes(warp.exec, [&](int lane) {
    if ((a[lane] & kWindowMask) != window) {
      warp.Report("address-space", "a generic address of another space than cvta.to names", lane);
    }
    d[lane] = a[lane] & ~kWindowMask;
  });
  return Step::kNext;
}

void DecodeCvta(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const bool to = modifiers.Take("to");
  const std::string_view space =
      modifiers.OneOf({"param", "shared", "shared::cta", "shared::cluster", "global", "local"});
  modifiers.OneOf({"u64"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 2);
  const uint64_t window = space == "param"    ? kParameterWindow
                          : space == "local"  ? kLocalWindow
                          : space == "global" ? 0
                                              : kSharedWindow;
  op->run = to ? RemoveWindow : AddWindow;
  op->immediate = static_cast<int64_t>(window);
  op->d = decoder.Destination(instruction.operands[0], 8);
  op->a = decoder.Source(instruction.operands[1], 8);
}

}  // namespace

void RegisterConvert(InstructionTable* table) {
  (*table)["cvt"] = DecodeCvt;
  (*table)["cvta"] = DecodeCvta;
}

}  // namespace jax_fa4::emulator
