#include "emulator/async/tensor_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "emulator/isa/half.h"

// The inner loops are written for the compiler to vectorise, for what the processor has.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_UNDEFINED__)
#define JAX_FA4_VECTORISED \
  __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3")))
#else
#define JAX_FA4_VECTORISED
#endif

namespace jax_fa4::emulator {
namespace {

constexpr int kAlignedBits = 25;  // fraction bits kept when terms are aligned
constexpr int kMaxColumns = 256;

// How an element's bits are divided. Both 8-bit formats are brought to three fraction bits, so
// that they can be multiplied with each other.
struct Format {
  int exponent_bits, fraction_bits, bias, widened_fraction_bits;
};

Format FormatOf(ElementType type) {
  switch (type) {
    case ElementType::kF16:
      return {5, 10, 15, 10};
    case ElementType::kBF16:
      return {8, 7, 127, 7};
    case ElementType::kE4M3:
      return {4, 3, 7, 3};
    case ElementType::kE5M2:
      return {5, 2, 15, 3};
  }
  return {};
}

int FractionBits(ElementType type) { return FormatOf(type).widened_fraction_bits; }

struct Decoded {
  int32_t significand;
  int32_t exponent;
};

Decoded Decode(ElementType type, uint16_t bits) {
  const Format format = FormatOf(type);
  const int fraction_bits = format.fraction_bits;
  const int exponent_mask = (1 << format.exponent_bits) - 1;
  const int32_t fraction = bits & ((1 << fraction_bits) - 1);
  const int field = bits >> fraction_bits & exponent_mask;
  int32_t significand = field == 0 ? fraction : fraction | 1 << fraction_bits;
  significand <<= format.widened_fraction_bits - fraction_bits;
  int32_t exponent = std::max(field, 1) - format.bias;
  if (significand == 0) exponent = -126;
  const bool negative = (bits >> (format.exponent_bits + fraction_bits) & 1) != 0;
  return {negative ? -significand : significand, exponent};
}

float ValueOf(ElementType type, uint16_t bits) {
  switch (type) {
    case ElementType::kF16:
      return FloatFromHalf(bits);
    case ElementType::kBF16:
      return FloatFromBFloat16(bits);
    case ElementType::kE4M3:
      return FloatFromE4M3(static_cast<uint8_t>(bits));
    case ElementType::kE5M2:
      return FloatFromHalf(static_cast<uint16_t>(bits << 8));
  }
  return 0.0f;
}

Decoded DecodeFloat(float value) {
  const uint32_t bits = BitsOf(value);
  const int field = static_cast<int>(bits >> 23 & 0xff);
  int32_t significand = static_cast<int32_t>(bits & 0x7fffff);
  if (field != 0) significand |= 1 << 23;
  int32_t exponent = std::max(field, 1) - 127;
  if (significand == 0) exponent = -126;
  return {(bits >> 31) != 0 ? -significand : significand, exponent};
}

// sum * 2^(exponent - kAlignedBits), truncated to float32.
float Truncated(int64_t sum, int32_t exponent) {
  if (sum == 0) return 0.0f;
  const uint64_t magnitude = static_cast<uint64_t>(sum < 0 ? -sum : sum);
  const int top = 63 - __builtin_clzll(magnitude);
  // Bits below the last of float32, which is 2^-149 at the least.
  const int drop = std::max(top - 23, -149 - (exponent - kAlignedBits));
  const uint64_t kept = drop > 63 ? 0 : drop > 0 ? magnitude >> drop << drop : magnitude;
  const double value = std::ldexp(static_cast<double>(kept), exponent - kAlignedBits);
  return static_cast<float>(sum < 0 ? -value : value);
}

// One row: aligned sums of `depth` products and c, in two parts that cannot overflow.
JAX_FA4_VECTORISED
void FusedRow(int columns, int depth, int product_bits, const int32_t* a, const int32_t* a_exponent,
              const int32_t* b, const int32_t* b_exponent, int32_t* max_exponent, int32_t* even,
              int32_t* odd) {
  for (int k = 0; k < depth; ++k) {
    const int32_t* exponents = b_exponent + k * columns;
    const int32_t own = a_exponent[k];
    for (int n = 0; n < columns; ++n) {
      const int32_t sum = own + exponents[n];
      max_exponent[n] = max_exponent[n] > sum ? max_exponent[n] : sum;
    }
  }
  const int left = kAlignedBits - product_bits;
  for (int k = 0; k < depth; ++k) {
    const int32_t* values = b + k * columns;
    const int32_t* exponents = b_exponent + k * columns;
    const int32_t own = a_exponent[k];
    const int32_t factor = a[k];
    int32_t* part = k % 2 == 0 ? even : odd;
    for (int n = 0; n < columns; ++n) {
      const int32_t product = factor * values[n];
      const int32_t sign = product >> 31;
      const uint32_t magnitude = static_cast<uint32_t>((product ^ sign) - sign) << left;
      const int32_t distance = max_exponent[n] - (own + exponents[n]);
      const uint32_t shift = static_cast<uint32_t>(distance < 31 ? distance : 31);
      const int32_t aligned = static_cast<int32_t>(magnitude >> shift);
      part[n] += (aligned ^ sign) - sign;
    }
  }
}

bool IsSpecial(float value) { return !std::isfinite(value); }

// Sums with an infinity or a NaN follow IEEE; a NaN is canonical.
float SpecialSum(const Product& product, const Unpacked& a, const Unpacked& b, int m, int n,
                 float c) {
  double sum = c;
  for (int k = 0; k < product.depth; ++k) {
    sum += static_cast<double>(a.value[m * product.depth + k]) * b.value[k * product.columns + n];
  }
  return std::isnan(sum) ? FloatOf(0x7fffffffu) : static_cast<float>(sum);
}

bool AnySpecial(const Unpacked& operand) {
  return std::any_of(operand.value.begin(), operand.value.end(), IsSpecial);
}

void ExactRow(const Product& product, const Unpacked& a, const Unpacked& b, int m, bool special,
              float* d) {
  const int columns = product.columns;
  int32_t max_exponent[kMaxColumns], even[kMaxColumns] = {}, odd[kMaxColumns] = {};
  Decoded c[kMaxColumns];
  for (int n = 0; n < columns; ++n) {
    c[n] = DecodeFloat(product.accumulate ? d[n] : 0.0f);
    max_exponent[n] = c[n].exponent;
  }
  FusedRow(columns, product.depth, FractionBits(product.a_type) + FractionBits(product.b_type),
           a.significand.data() + m * product.depth, a.exponent.data() + m * product.depth,
           b.significand.data(), b.exponent.data(), max_exponent, even, odd);
  for (int n = 0; n < columns; ++n) {
    const float old = product.accumulate ? d[n] : 0.0f;
    if (special || IsSpecial(old)) {
      const float sum = SpecialSum(product, a, b, m, n, old);
      if (IsSpecial(sum)) {
        d[n] = sum;
        continue;
      }
    }
    const int32_t distance = std::min(max_exponent[n] - c[n].exponent, 31);
    const int64_t magnitude =
        (static_cast<int64_t>(std::abs(c[n].significand)) << (kAlignedBits - 23)) >> distance;
    const int64_t aligned = c[n].significand < 0 ? -magnitude : magnitude;
    d[n] = Truncated(int64_t{even[n]} + odd[n] + aligned, max_exponent[n]);
  }
}

JAX_FA4_VECTORISED
void PlainRow(int columns, int depth, const float* a, const float* b, float* d) {
  for (int k = 0; k < depth; ++k) {
    for (int n = 0; n < columns; ++n) d[n] += a[k] * b[k * columns + n];
  }
}

}  // namespace

void Unpack(ElementType type, const uint16_t* bits, size_t count, Unpacked* out) {
  out->significand.resize(count);
  out->exponent.resize(count);
  out->value.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const Decoded decoded = Decode(type, bits[i]);
    out->significand[i] = decoded.significand;
    out->exponent[i] = decoded.exponent;
    out->value[i] = ValueOf(type, bits[i]);
  }
}

void MultiplyAdd(const Product& product, const Unpacked& a, const Unpacked& b, float* d) {
  if (!product.exact) {
    for (int m = 0; m < product.rows; ++m) {
      float* row = d + m * product.columns;
      if (!product.accumulate) std::fill(row, row + product.columns, 0.0f);
      PlainRow(product.columns, product.depth, a.value.data() + m * product.depth, b.value.data(),
               row);
    }
    return;
  }
  const bool special = AnySpecial(a) || AnySpecial(b);
  for (int m = 0; m < product.rows; ++m) {
    ExactRow(product, a, b, m, special, d + m * product.columns);
  }
}

}  // namespace jax_fa4::emulator
