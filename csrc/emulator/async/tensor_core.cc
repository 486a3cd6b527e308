#include "emulator/async/tensor_core.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "emulator/async/fused_sum.h"
#include "emulator/isa/half.h"

namespace jax_fa4::emulator {
namespace {

constexpr int32_t kSmallestAlignment = -133;
constexpr int32_t kNotFinite = 1 << 10;  // as an exponent: far from every ordinary one

// How an element's bits are divided.
struct Format {
  int exponent_bits, fraction_bits, bias;
};

Format FormatOf(ElementType type) {
  switch (type) {
    case ElementType::kF16:
      return {5, 10, 15};
    case ElementType::kBF16:
      return {8, 7, 127};
    case ElementType::kE4M3:
      return {4, 3, 7};
    case ElementType::kE5M2:
      return {5, 2, 15};
    case ElementType::kTF32:
      return {8, 10, 127};
  }
  return {};
}

// ---- unpacking

struct Element {
  float value;
  int32_t exponent;
};

Element ByteElement(ElementType type, uint8_t bits) {
  const Format format = FormatOf(type);
  const float value = type == ElementType::kE4M3 ? FloatFromE4M3(bits)
                                                 : FloatFromHalf(static_cast<uint16_t>(bits << 8));
  const int field = bits >> format.fraction_bits & ((1 << format.exponent_bits) - 1);
  const int32_t exponent = std::max(field, 1) - format.bias;
  return {value, !std::isfinite(value) ? kNotFinite : value == 0.0f ? kZeroExponent : exponent};
}

using ByteTable = std::array<Element, 256>;

ByteTable MakeByteTable(ElementType type) {
  ByteTable table;
  for (int bits = 0; bits < 256; ++bits) {
    table[static_cast<size_t>(bits)] = ByteElement(type, static_cast<uint8_t>(bits));
  }
  return table;
}

void UnpackBytes(ElementType type, const uint16_t* bits, size_t count, Unpacked* out) {
  static const ByteTable kE4M3 = MakeByteTable(ElementType::kE4M3);
  static const ByteTable kE5M2 = MakeByteTable(ElementType::kE5M2);
  const ByteTable& table = type == ElementType::kE4M3 ? kE4M3 : kE5M2;
  for (size_t i = 0; i < count; ++i) {
    const Element& element = table[bits[i] & 0xffu];
    out->value[i] = element.value;
    out->exponent[i] = element.exponent;
  }
}

// Without branches, for the compiler to vectorise; so is UnpackHalfs.
void UnpackBFloat16s(const uint16_t* bits, size_t count, float* value, int32_t* exponent) {
  for (size_t i = 0; i < count; ++i) {
    const int32_t field = bits[i] >> 7 & 0xff;
    value[i] = FloatFromBFloat16(bits[i]);
    const int32_t ordinary = (field > 1 ? field : 1) - 127;
    const bool zero = (bits[i] & 0x7fff) == 0;
    exponent[i] = field == 0xff ? kNotFinite : zero ? kZeroExponent : ordinary;
  }
}

void UnpackHalfs(const uint16_t* bits, size_t count, float* value, int32_t* exponent) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t sign = static_cast<uint32_t>(bits[i] & 0x8000) << 16;
    const uint32_t magnitude = bits[i] & 0x7fffu;
    const int32_t field = static_cast<int32_t>(magnitude >> 10);
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const uint32_t large = (magnitude << 13) | 0x7f800000u;
    // A subnormal is so many 2^-24.
    const uint32_t small = BitsOf(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
    value[i] = FloatOf(sign | (field == 31 ? large : field == 0 ? small : normal));
    const int32_t ordinary = (field > 1 ? field : 1) - 15;
    exponent[i] = field == 31 ? kNotFinite : magnitude == 0 ? kZeroExponent : ordinary;
  }
}

// The lowest 13 bits are not read.
void UnpackTF32s(const uint16_t* places, size_t count, Unpacked* out) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = (uint32_t{places[2 * i + 1]} << 16 | places[2 * i]) & ~0x1fffu;
    const int32_t field = static_cast<int32_t>(bits >> 23 & 0xff);
    out->value[i] = FloatOf(bits);
    const bool zero = (bits & 0x7fffffffu) == 0;
    out->exponent[i] = field == 0xff ? kNotFinite : zero ? kZeroExponent : std::max(field, 1) - 127;
  }
}

// ---- exact sums of any operands, one at a time

// value * 2^(fraction_bits - exponent), a whole number.
int64_t Significand(float value, int32_t exponent, int fraction_bits) {
  return std::isfinite(value) ? static_cast<int64_t>(std::ldexp(static_cast<double>(value),
                                                                fraction_bits - exponent))
                              : 0;
}

// significand * 2^shift, towards zero.
int64_t Aligned(int64_t significand, int32_t shift) {
  const int64_t magnitude = std::abs(significand);
  const int64_t kept = shift >= 0 ? magnitude << shift : shift < -62 ? 0 : magnitude >> -shift;
  return significand < 0 ? -kept : kept;
}

// sum * 2^exponent, truncated to `bits` fraction bits of float32.
float Truncated(int64_t sum, int32_t exponent, int bits) {
  if (sum == 0) return 0.0f;
  const uint64_t magnitude = static_cast<uint64_t>(sum < 0 ? -sum : sum);
  const int top = 63 - __builtin_clzll(magnitude);
  // Bits below the last of float32, which is 2^-149 at the least.
  const int drop = std::max(top - bits, -126 - bits - exponent);
  const uint64_t kept = drop > 63 ? 0 : drop > 0 ? magnitude >> drop << drop : magnitude;
  if (kept == 0) return 0.0f;
  const double value = std::ldexp(static_cast<double>(kept), exponent);
  return static_cast<float>(sum < 0 ? -value : value);
}

constexpr float kLargestHalf = 65504.0f;

// To the nearest float16, ties to even. Exact sums are far from a double's last bit.
float RoundedToHalf(double value) {
  if (!std::isfinite(value)) return static_cast<float>(value);
  const int last = value == 0 ? -24 : std::max(std::ilogb(value) - 10, -24);
  const float rounded =
      static_cast<float>(std::ldexp(std::nearbyint(std::ldexp(value, -last)), last));
  if (rounded == 0) return 0.0f;
  if (std::fabs(rounded) <= kLargestHalf) return rounded;
  return std::copysign(std::numeric_limits<float>::infinity(), rounded);
}

// One element of the product: row m of A with column n of B, and c.
struct Place {
  const Product& product;
  const Unpacked& a;
  const Unpacked& b;
  int m, n;

  size_t OfA(int k) const { return static_cast<size_t>(m * product.depth + k); }
  size_t OfB(int k) const { return static_cast<size_t>(k * product.columns + n); }
};

float ExactSum(const Place& place, float c) {
  const Product& product = place.product;
  const int a_bits = FormatOf(product.a_type).fraction_bits;
  const int b_bits = FormatOf(product.b_type).fraction_bits;
  int32_t c_exponent = std::max(static_cast<int32_t>(BitsOf(c) >> 23 & 0xff), 1) - 127;
  if (product.half) c_exponent = std::max(c_exponent, -14);
  if (c == 0.0f) c_exponent = 2 * kZeroExponent;
  int32_t largest = std::max(c_exponent, kSmallestAlignment);
  for (int k = 0; k < product.depth; ++k) {
    largest = std::max(largest, place.a.exponent[place.OfA(k)] + place.b.exponent[place.OfB(k)]);
  }
  const int aligned = product.aligned_bits;
  int64_t sum = Aligned(Significand(c, c_exponent, 23), aligned - 23 - (largest - c_exponent));
  for (int k = 0; k < product.depth; ++k) {
    const size_t i = place.OfA(k), j = place.OfB(k);
    const int64_t term = Significand(place.a.value[i], place.a.exponent[i], a_bits) *
                         Significand(place.b.value[j], place.b.exponent[j], b_bits);
    const int32_t distance = largest - place.a.exponent[i] - place.b.exponent[j];
    sum += Aligned(term, aligned - a_bits - b_bits - distance);
  }
  if (!product.half) return Truncated(sum, largest - aligned, product.kept_bits);
  return RoundedToHalf(std::ldexp(static_cast<double>(sum), largest - aligned));
}

// Sums with an infinity or a NaN follow IEEE; a NaN is canonical.
float SpecialSum(const Place& place, float c) {
  double sum = c;
  for (int k = 0; k < place.product.depth; ++k) {
    sum += static_cast<double>(place.a.value[place.OfA(k)]) * place.b.value[place.OfB(k)];
  }
  return std::isnan(sum) ? FloatOf(0x7fffffffu) : static_cast<float>(sum);
}

bool HasSpecial(const Place& place, float c) {
  bool special = !std::isfinite(c);
  for (int k = 0; k < place.product.depth; ++k) {
    special = special || place.a.exponent[place.OfA(k)] == kNotFinite ||
              place.b.exponent[place.OfB(k)] == kNotFinite;
  }
  return special;
}

}  // namespace

void Unpack(ElementType type, const uint16_t* bits, size_t count, Unpacked* out) {
  out->exponent.resize(count);
  out->value.resize(count);
  switch (type) {
    case ElementType::kBF16:
      return UnpackBFloat16s(bits, count, out->value.data(), out->exponent.data());
    case ElementType::kF16:
      return UnpackHalfs(bits, count, out->value.data(), out->exponent.data());
    case ElementType::kTF32:
      return UnpackTF32s(bits, count, out);
    default:
      return UnpackBytes(type, bits, count, out);
  }
}

void MultiplyAdd(const Product& product, const Unpacked& a, const Unpacked& b, float* d) {
  const bool ordinary_sums =
      !product.half && product.aligned_bits == kAlignedBits && product.kept_bits == 23;
  const ExponentRange b_range =
      RangeOf(b.exponent.data(), b.value.data(), product.depth * product.columns);
  for (int m = 0; m < product.rows; ++m) {
    const float* values = a.value.data() + m * product.depth;
    const int32_t* exponents = a.exponent.data() + m * product.depth;
    const FusedRow row = {product.columns, product.depth,  values,
                          exponents,       b.value.data(), b.exponent.data()};
    float* sums = d + m * product.columns;
    if (!product.accumulate) std::fill(sums, sums + product.columns, 0.0f);
    if (!product.exact) {
      PlainSum(row, sums);
      if (!product.half) continue;
      for (int n = 0; n < product.columns; ++n) sums[n] = RoundedToHalf(sums[n]);
    } else if (ordinary_sums && Ordinary(RangeOf(exponents, values, product.depth), b_range) &&
               AllFinite(sums, product.columns)) {
      FusedSum(row, sums);
    } else {
      for (int n = 0; n < product.columns; ++n) {
        const Place place = {product, a, b, m, n};
        sums[n] =
            HasSpecial(place, sums[n]) ? SpecialSum(place, sums[n]) : ExactSum(place, sums[n]);
      }
    }
  }
}

}  // namespace jax_fa4::emulator
