// A tcgen05.mma, as it was issued.
#pragma once

#include <vector>

#include "emulator/async/tensor_core.h"
#include "emulator/isa/tcgen05.h"

namespace jax_fa4::emulator {

enum class MmaKind : uint8_t { kF16, kF8F6F4, kTF32 };

// The 32-bit instruction descriptor.
struct Description {
  ElementType a_type, b_type;
  bool half;  // D is float16, in the lower half of its cells
  bool negate_a, negate_b, transpose_a, transpose_b;
  int rows, columns;  // M and N
};

// One issued product.
struct Mma {
  std::vector<Cta*> ctas;  // one, or the pair with the even rank first
  Description shape;
  bool exact = true;
  bool accumulate = false;
  bool a_in_tensor_memory = false;
  uint64_t a = 0;  // descriptor, or address in tensor memory
  uint64_t b = 0;
  uint32_t d = 0;
  int scale = 0;              // D is multiplied by 2^-scale before
  uint32_t disabled[8] = {};  // lanes of D that stay as they are

  int rows() const { return shape.rows / static_cast<int>(ctas.size()); }  // of one CTA
  int depth() const { return 32 / ElementBytes(shape.a_type); }
};

// Where row `m` of a CTA's D or A lies. A product of 64 rows on one CTA uses every second half of
// 32 lanes; one of 128 rows on two CTAs folds N's upper half into lanes 64 to 127.
inline uint32_t LaneOfRow(const Mma& mma, uint32_t address, uint32_t m) {
  if (mma.rows() == 64 && mma.ctas.size() == 1) {
    return TensorLane(address) + m % 16 + 32 * (m / 16);
  }
  return TensorLane(address) + m;
}

inline bool Folded(const Mma& mma) { return mma.rows() == 64 && mma.ctas.size() == 2; }

// Reports what does not exist or is not supported.
Description ReadDescription(uint32_t bits, MmaKind kind, int ctas, const Origin& origin);

// Tells the race detector what `mma`, which `lane` issues now, reads and writes.
void WatchMma(Warp& warp, int lane, const Mma& mma);

}  // namespace jax_fa4::emulator
