// One warp's part of a warpgroup product: 16 rows of it.
#pragma once

#include <array>

#include "emulator/async/matrix_operand.h"
#include "emulator/async/tensor_core.h"

namespace jax_fa4::emulator {

inline constexpr int kWgmmaRowBytes = 32;  // of an operand: all of K
inline constexpr int kWgmmaWarpRows = 16;

struct WgmmaShape {
  ElementType a_type, b_type;
  int columns;
  bool a_in_registers;
  bool transpose_a, transpose_b;
  bool negate_a, negate_b;
  bool half;  // the accumulator is float16, two in a register

  int element_bytes() const { return ElementBytes(a_type); }
  int depth() const { return kWgmmaRowBytes / element_bytes(); }
};

struct WgmmaOperands {
  WgmmaShape shape;
  OperandLayout a, b;
  std::array<uint32_t, 4 * 32> registers = {};
  bool accumulate = false;
  const Op* op = nullptr;  // its slots are the accumulator
};

OperandShape ShapeOfA(const Warp& warp, const WgmmaShape& shape);
OperandShape ShapeOfB(const WgmmaShape& shape);

// d = a b (+ d), of what the operands hold now.
void ComputeWgmma(Warp& warp, const WgmmaOperands& operands);

}  // namespace jax_fa4::emulator
