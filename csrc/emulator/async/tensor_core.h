// The arithmetic of matrix products, as tensor cores do it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace jax_fa4::emulator {

enum class ElementType : uint8_t { kF16, kBF16, kE4M3, kE5M2, kTF32 };

inline int ElementBytes(ElementType type) {
  if (type == ElementType::kTF32) return 4;
  return type == ElementType::kF16 || type == ElementType::kBF16 ? 2 : 1;
}

// So low that a product with a zero aligns no other term, as on an H100.
inline constexpr int32_t kZeroExponent = -512;

// Places of 16 bits that an element takes before it is unpacked.
inline int ElementPlaces(int element_bytes) { return element_bytes == 4 ? 2 : 1; }

// A matrix operand unpacked for the fused sum. The exponent is that of the type's bits: subnormals
// share the smallest; a zero has kZeroExponent.
struct Unpacked {
  std::vector<int32_t> exponent;
  std::vector<float> value;
};

// Unpacks elements, each in ElementPlaces times 16 bits.
void Unpack(ElementType type, const uint16_t* bits, size_t count, Unpacked* out);

// d[m][n] = sum_k a[m][k] b[k][n] (+ d[m][n]) for `depth` up to 16, for 8-bit elements up to 32,
// and a multiple of 8 columns. `a` is (rows, depth), `b` is (depth, columns), `d` is (rows,
// columns), all row-major.
//
// Exact mode: the products, which are exact, and d are aligned to the largest exponent among those
// that are not zero, -133 at the least, each is truncated to 25 fraction bits, the sum is exact and
// truncated to float32 (the model of MMA-Sim, arXiv 2511.10909, but for zeros, which there have an
// exponent, and for -133: so say an H100's bits). Otherwise plain float32 sums in order of k. A
// float16 accumulator is rounded to nearest even; d has its values. What is rounded to zero is +0.
struct Product {
  ElementType a_type = ElementType::kBF16;
  ElementType b_type = ElementType::kBF16;
  int rows = 0;
  int columns = 0;
  int depth = 0;
  bool accumulate = false;
  bool exact = true;
  bool half = false;      // the accumulator is float16
  int aligned_bits = 25;  // fraction bits that the alignment keeps, and
  int kept_bits = 23;     // that a float32 sum keeps: both are 13 for Hopper's 8-bit products
};
void MultiplyAdd(const Product& product, const Unpacked& a, const Unpacked& b, float* d);

}  // namespace jax_fa4::emulator
