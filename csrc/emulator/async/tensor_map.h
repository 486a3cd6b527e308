// The 128-byte tensor map of TMA copies, and the boxes it cuts.
#pragma once

#include <cstdint>
#include <string>

namespace jax_fa4::emulator {

struct TensorMap {
  uint64_t address = 0;
  int rank = 0;
  int element_bytes = 0;
  int swizzle = 0;           // 0 none, 1: 32 bytes, 2: 64, 3: 128
  uint64_t dims[5] = {};     // elements
  uint64_t strides[5] = {};  // bytes; strides[0] is the element's size
  uint32_t box[5] = {};      // elements that are copied
  uint32_t steps[5] = {};    // elements from one that is copied to the next; steps[0] is 1
  bool fill_nan = false;     // outside the tensor: NaN, where it is not zero

  uint64_t BoxBytes() const;
  // Writes elements that are outside the tensor: NaN is 0x7ff7 in every 16 bits, as of an H100.
  void Fill(uint8_t* to, uint32_t bytes) const;
  // Shared address of byte `offset` of a box that begins at `begin`.
  uint32_t Swizzled(uint32_t begin, uint32_t offset) const;
};

// Reads the map; empty on success, otherwise what the emulator does not support in it.
std::string ReadTensorMap(const uint8_t* bytes, TensorMap* map);

}  // namespace jax_fa4::emulator
