// Tensor memory: 128 lanes of 512 columns of 32 bits, and who may use which columns.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace jax_fa4::emulator {

inline constexpr uint32_t kTensorLanes = 128;
inline constexpr uint32_t kTensorColumns = 512;
inline constexpr uint32_t kAllocationUnit = 32;  // columns

// An address in tensor memory: bits 31-16 the lane, 15-0 the column.
inline uint32_t TensorLane(uint32_t address) { return address >> 16; }
inline uint32_t TensorColumn(uint32_t address) { return address & 0xffffu; }

class TensorMemory {
 public:
  // Takes `columns` free columns; the first of them, or -1 if there is no such room.
  int Allocate(uint32_t columns);
  // The first column that is free in this memory and in `peer`.
  int FindRoom(uint32_t columns, const TensorMemory* peer) const;
  void Take(uint32_t first, uint32_t columns);
  // What is wrong with freeing these columns; empty if nothing.
  std::string CheckFree(uint32_t first, uint32_t columns) const;
  void Free(uint32_t first, uint32_t columns);

  // Why the cells cannot be touched; empty if they can.
  std::string CheckRange(uint32_t first_lane, uint32_t lanes, uint32_t first_column,
                         uint32_t columns) const;

  uint32_t* Cell(uint32_t lane, uint32_t column) { return &cells_[lane * kTensorColumns + column]; }
  uint8_t* Written(uint32_t lane, uint32_t column) {
    return &written_[lane * kTensorColumns + column];
  }
  uint32_t allocated_columns() const;

  bool relinquished = false;
  uint32_t last_size = kTensorColumns;  // of the latest allocation: sizes must not grow
  // What a warp asks for together with the pair's other CTA, and what it was given.
  uint32_t requested = 0;
  int granted = -1;
  uint32_t freeing = 0;  // columns that it waits to free with the pair's other CTA
  bool freed = false;    // by that CTA

 private:
  std::vector<uint32_t> cells_;                               // made with the first allocation
  std::vector<uint8_t> written_;                              // a byte a cell
  uint32_t first_of_[kTensorColumns / kAllocationUnit] = {};  // an allocation's first unit, + 1
};

}  // namespace jax_fa4::emulator
