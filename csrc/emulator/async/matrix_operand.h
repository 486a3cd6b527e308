// A matrix operand in shared memory, by the layouts that wgmma and tcgen05.mma share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

inline constexpr uint32_t kOperandChunk = 16;  // bytes that stay together, whatever the swizzle

struct OperandShape {
  int rows;   // along M or N
  int depth;  // along K: 32 bytes
  int element_bytes;
  bool transposed;  // M or N is the contiguous direction
  int first_row = 0;
};

// How an operand lies in shared memory.
struct OperandLayout {
  uint32_t start, leading, stride;
  uint32_t bits;  // log2 of the swizzle's width in chunks: 0, 1 (32 bytes), 2 (64), 3 (128)

  // Address of a row's chunk `k` where K is contiguous, and of chunk `row` of rows at depth `k`
  // where the rows are.
  uint32_t KMajor(uint32_t row, uint32_t k) const {
    return Swizzled(bits == 0
                        ? row % 8 * kOperandChunk + row / 8 * stride + k * leading
                        : row % 8 * (kOperandChunk << bits) + row / 8 * stride + k * kOperandChunk);
  }
  uint32_t RowMajor(uint32_t row, uint32_t k) const {
    const uint32_t width = 1u << bits;
    return Swizzled(bits == 0 ? row * stride + k % 8 * kOperandChunk + k / 8 * leading
                              : row % width * kOperandChunk + row / width * leading +
                                    k % 8 * width * kOperandChunk + k / 8 * stride);
  }

 private:
  uint32_t Swizzled(uint32_t offset) const {
    const uint32_t address = start + offset;
    return address ^ ((address >> 7 & ((1u << bits) - 1)) << 4);
  }
};

// Calls body(address, row, k, count) for each chunk of the operand: `count` elements from (row, k)
// on, along the contiguous direction. Rows are counted from shape.first_row.
template <typename Body>
void ForOperandChunks(const OperandLayout& layout, const OperandShape& shape, Body body) {
  const int elements = static_cast<int>(kOperandChunk) / shape.element_bytes;
  if (!shape.transposed) {
    for (int row = 0; row < shape.rows; ++row) {
      for (int k = 0; k < shape.depth; k += elements) {
        body(layout.KMajor(static_cast<uint32_t>(shape.first_row + row),
                           static_cast<uint32_t>(k / elements)),
             row, k, elements);
      }
    }
    return;
  }
  for (int row = 0; row < shape.rows; row += elements) {
    for (int k = 0; k < shape.depth; ++k) {
      body(layout.RowMajor(static_cast<uint32_t>((shape.first_row + row) / elements),
                           static_cast<uint32_t>(k)),
           row, k, std::min(elements, shape.rows - row));
    }
  }
}

// Calls body(address, bytes) for the operand's memory, chunks that follow each other taken
// together.
template <typename Body>
void ForOperandRuns(const OperandLayout& layout, const OperandShape& shape, Body body) {
  uint32_t begin = 0, end = 0;
  ForOperandChunks(layout, shape, [&](uint32_t address, int, int, int) {
    if (address == end) {
      end += kOperandChunk;
    } else if (address + kOperandChunk == begin) {
      begin = address;  // a swizzle has exchanged them
    } else {
      if (begin != end) body(begin, end - begin);
      begin = address;
      end = address + kOperandChunk;
    }
  });
  if (begin != end) body(begin, end - begin);
}

// Writes `count` elements from memory to out[0], out[step], ..., widened to 16 bits; those of 32
// bits to two places each, of out[0], out[2 step], ...
void WidenChunk(const uint8_t* from, int count, int element_bytes, int step, uint16_t* out);

// What the emulator does not support in the descriptor of a tcgen05.mma; empty if nothing.
std::string CheckDescriptor(uint64_t descriptor);

// The addresses of its runs of 16 bytes, in no order.
void OperandChunks(uint64_t descriptor, const OperandShape& shape,
                   std::vector<uint32_t>* addresses);

// Writes element (row, k) to out[row * row_step + k * depth_step], as WidenChunk does. Returns what
// is wrong with the memory that is read, if something is.
std::string ReadOperand(const Cta& cta, uint64_t descriptor, const OperandShape& shape,
                        int row_step, int depth_step, uint16_t* out);

}  // namespace jax_fa4::emulator
