#include "emulator/async/fused_sum.h"

#include <cstring>

#include "emulator/isa/half.h"

// Compiled for what processors may have; the loader takes the best.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_UNDEFINED__)
#define JAX_FA4_VECTORISED \
  __attribute__((target_clones("avx512f", "avx2", "default"), optimize("O3", "fp-contract=off")))
#else
#define JAX_FA4_VECTORISED
#endif

namespace jax_fa4::emulator {
namespace {

constexpr int kBlock = 16;  // columns at a time: their sums stay in registers

struct Wide {
  static constexpr int kColumns = kBlock;
  typedef float Floats __attribute__((vector_size(4 * kBlock)));
  typedef int32_t Ints __attribute__((vector_size(4 * kBlock)));
};
struct Narrow {
  static constexpr int kColumns = 8;
  typedef float Floats __attribute__((vector_size(32)));
  typedef int32_t Ints __attribute__((vector_size(32)));
};

// What a block of columns has come to before the last rounding.
struct Sums {
  alignas(64) int32_t max_exponent[kBlock];
  alignas(64) int32_t even[kBlock];  // of the aligned products, in two parts that cannot overflow
  alignas(64) int32_t odd[kBlock];
};

// An exponent as the hardware takes it from a float32; a zero has -126, as every subnormal,
// which is less than ordinary products have.
inline int32_t ExponentOf(float value) {
  const int32_t field = static_cast<int32_t>(BitsOf(value) >> 23 & 0xff);
  return (field > 1 ? field : 1) - 127;
}

inline double PowerOfTwo(int32_t exponent) {
  const uint64_t bits = static_cast<uint64_t>(exponent + 1023) << 52;
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

template <typename Vectors>
__attribute__((always_inline)) inline void AlignedProducts(const FusedRow& row, int first,
                                                           const float* d, Sums* sums) {
  using Floats = typename Vectors::Floats;
  using Ints = typename Vectors::Ints;
  Ints exponent, largest;
  Floats value, scale;
  for (int n = 0; n < Vectors::kColumns; ++n) sums->max_exponent[n] = ExponentOf(d[n]);
  std::memcpy(&largest, sums->max_exponent, sizeof(largest));
  for (int k = 0; k < row.depth; ++k) {
    std::memcpy(&exponent, row.b_exponent + k * row.columns + first, sizeof(exponent));
    exponent += row.a_exponent[k];
    largest = exponent > largest ? exponent : largest;
  }
  std::memcpy(sums->max_exponent, &largest, sizeof(largest));
  // 2^(kAlignedBits - largest). Where that is more than float32 has, all products are zero.
  Ints power = kAlignedBits - largest + 127;
  power = power < 254 ? power : 254;
  power <<= 23;
  std::memcpy(&scale, &power, sizeof(scale));
  Ints even = {}, odd = {};
  for (int k = 0; k < row.depth; k += 2) {
    std::memcpy(&value, row.b + k * row.columns + first, sizeof(value));
    value = value * row.a[k] * scale;
    even += __builtin_convertvector(value, Ints);
    std::memcpy(&value, row.b + (k + 1) * row.columns + first, sizeof(value));
    value = value * row.a[k + 1] * scale;
    odd += __builtin_convertvector(value, Ints);
  }
  std::memcpy(sums->even, &even, sizeof(even));
  std::memcpy(sums->odd, &odd, sizeof(odd));
}

// sum * 2^(exponent - kAlignedBits), truncated to float32; d takes part in the sum.
__attribute__((always_inline)) inline float Rounded(double sum, int32_t exponent, float d) {
  const double aligned_d = static_cast<double>(d) * PowerOfTwo(kAlignedBits - exponent);
  sum += static_cast<double>(static_cast<int32_t>(aligned_d));
  uint64_t bits;
  std::memcpy(&bits, &sum, sizeof(bits));
  bits &= ~uint64_t{0x1fffffff};  // 24 significant bits are left
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  // Of ordinary operands no sum is too small to be exact in float32.
  return static_cast<float>(value * PowerOfTwo(exponent - kAlignedBits));
}

template <typename Vectors>
__attribute__((always_inline)) inline void Block(const FusedRow& row, int first, float* d) {
  Sums sums;
  AlignedProducts<Vectors>(row, first, d + first, &sums);
  for (int n = 0; n < Vectors::kColumns; ++n) {
    const double sum = static_cast<double>(sums.even[n]) + static_cast<double>(sums.odd[n]);
    d[first + n] = Rounded(sum, sums.max_exponent[n], d[first + n]);
  }
}

template <typename Vectors>
__attribute__((always_inline)) inline void PlainBlock(const FusedRow& row, int first, float* d) {
  typename Vectors::Floats sum, value;
  std::memcpy(&sum, d + first, sizeof(sum));
  for (int k = 0; k < row.depth; ++k) {
    std::memcpy(&value, row.b + k * row.columns + first, sizeof(value));
    sum += value * row.a[k];
  }
  std::memcpy(d + first, &sum, sizeof(sum));
}

}  // namespace

JAX_FA4_VECTORISED
ExponentRange RangeOf(const int32_t* exponent, const float* value, int count) {
  int32_t smallest = 127, largest = -127;
  for (int i = 0; i < count; ++i) {
    const int32_t low = value[i] == 0.0f ? 127 : exponent[i];
    const int32_t high = value[i] == 0.0f ? -127 : exponent[i];
    smallest = low < smallest ? low : smallest;
    largest = high > largest ? high : largest;
  }
  return {smallest, largest};
}

JAX_FA4_VECTORISED
bool AllFinite(const float* values, int count) {
  int32_t largest = 0;
  for (int i = 0; i < count; ++i) {
    const int32_t magnitude = static_cast<int32_t>(BitsOf(values[i]) & 0x7fffffffu);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest < 0x7f800000;
}

JAX_FA4_VECTORISED
void FusedSum(const FusedRow& row, float* d) {
  int first = 0;
  for (; first + kBlock <= row.columns; first += kBlock) Block<Wide>(row, first, d);
  for (; first < row.columns; first += 8) Block<Narrow>(row, first, d);
}

JAX_FA4_VECTORISED
void PlainSum(const FusedRow& row, float* d) {
  int first = 0;
  for (; first + kBlock <= row.columns; first += kBlock) PlainBlock<Wide>(row, first, d);
  for (; first < row.columns; first += 8) PlainBlock<Narrow>(row, first, d);
}

}  // namespace jax_fa4::emulator
