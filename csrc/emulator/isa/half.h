// The float formats of 16 and 8 bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace jax_fa4::emulator {

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float FloatFromBFloat16(uint16_t bits) { return FloatOf(uint32_t{bits} << 16); }

// Round to nearest even; NaN becomes 0x7fff.
inline uint16_t BFloat16FromFloat(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

inline float FloatFromHalf(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
  const uint32_t exponent = bits >> 10 & 0x1fu;
  const uint32_t fraction = bits & 0x3ffu;
  if (exponent == 0x1f) return FloatOf(sign | 0x7f800000u | fraction << 13);
  if (exponent != 0) return FloatOf(sign | (exponent + 112) << 23 | fraction << 13);
  return std::copysign(std::ldexp(static_cast<float>(fraction), -24), FloatOf(sign | 0x3f800000u));
}

// Round to nearest even; NaN becomes 0x7fff.
inline uint16_t HalfFromFloat(float value) {
  const uint32_t bits = BitsOf(value);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7fff;
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude >= 0x38800000u) {
    const uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
  }
  // Subnormal: the float sum with 0.5 leaves the rounded fraction in its low bits.
  const float sum = FloatOf(magnitude) + 0.5f;
  return static_cast<uint16_t>(sign | (BitsOf(sum) - 0x3f000000u));
}

// No infinities; the largest magnitude but one is 448, 0x7f is NaN.
inline float FloatFromE4M3(uint8_t bits) {
  const int field = bits >> 3 & 0xf, fraction = bits & 7;
  const float magnitude = (bits & 0x7f) == 0x7f ? FloatOf(0x7fffffffu)
                          : field == 0 ? std::ldexp(static_cast<float>(fraction), -9)
                                       : std::ldexp(static_cast<float>(8 + fraction), field - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace jax_fa4::emulator
