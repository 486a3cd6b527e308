// A matrix operand of tcgen05.mma in shared memory, by its 64-bit descriptor.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

struct OperandShape {
  int rows;   // along M or N
  int depth;  // along K: 32 bytes
  int element_bytes;
  bool transposed;  // M or N is the contiguous direction
};

// What the emulator does not support in the descriptor; empty if nothing.
std::string CheckDescriptor(uint64_t descriptor);

// The addresses of its runs of 16 bytes, in no order.
void OperandChunks(uint64_t descriptor, const OperandShape& shape,
                   std::vector<uint32_t>* addresses);

// Writes element (row, k) to out[row * row_step + k * depth_step], widened to 16 bits. Returns what
// is wrong with the memory that is read, if something is.
std::string ReadOperand(const Cta& cta, uint64_t descriptor, const OperandShape& shape,
                        int row_step, int depth_step, uint16_t* out);

}  // namespace jax_fa4::emulator
