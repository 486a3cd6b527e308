// The sums of tensor cores, vectorised for operands of ordinary size.
#pragma once

#include <cstdint>

namespace jax_fa4::emulator {

inline constexpr int kAlignedBits = 25;  // fraction bits kept when terms are aligned

// One row of A, and B, (depth, columns) row-major: values with their exponents as the hardware
// sees them (tensor_core.h).
struct FusedRow {
  int columns = 0;  // a multiple of 8
  int depth = 0;
  const float* a = nullptr;
  const int32_t* a_exponent = nullptr;
  const float* b = nullptr;
  const int32_t* b_exponent = nullptr;
};

// Exponents of the elements that are not zero.
struct ExponentRange {
  int32_t smallest = 127;
  int32_t largest = -127;
};

ExponentRange RangeOf(const int32_t* exponent, const float* value, int count);

bool AllFinite(const float* values, int count);

// Whether FusedSum may be used: products of such operands are exact in float32, and so is their
// distance to every sum that they reach.
inline bool Ordinary(const ExponentRange& a, const ExponentRange& b) {
  return a.smallest + b.smallest >= -100 && a.largest + b.largest <= 120;
}

// d[n] = sum_k a[k] b[k][n] + d[n], by the model of tensor_core.h. d must be finite.
void FusedSum(const FusedRow& row, float* d);

// d[n] += a[k] b[k][n] in order of k, plain float32.
void PlainSum(const FusedRow& row, float* d);

}  // namespace jax_fa4::emulator
