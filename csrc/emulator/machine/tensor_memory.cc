#include "emulator/machine/tensor_memory.h"

#include <algorithm>

namespace jax_fa4::emulator {
namespace {

constexpr uint32_t kUnits = kTensorColumns / kAllocationUnit;
constexpr uint32_t kPoison = 0x7fffffffu;  // a NaN, and no plausible integer

}  // namespace

int TensorMemory::FindRoom(uint32_t columns, const TensorMemory* peer) const {
  const uint32_t units = columns / kAllocationUnit;
  for (uint32_t first = 0; first + units <= kUnits; first += units) {
    bool free = true;
    for (uint32_t unit = first; unit < first + units; ++unit) {
      free = free && first_of_[unit] == 0 && (peer == nullptr || peer->first_of_[unit] == 0);
    }
    if (free) return static_cast<int>(first * kAllocationUnit);
  }
  return -1;
}

void TensorMemory::Take(uint32_t first, uint32_t columns) {
  if (cells_.empty()) {
    cells_.assign(kTensorLanes * kTensorColumns, kPoison);
    written_.assign(kTensorLanes * kTensorColumns, 0);
  }
  for (uint32_t unit = 0; unit < columns / kAllocationUnit; ++unit) {
    first_of_[first / kAllocationUnit + unit] = first / kAllocationUnit + 1;
  }
}

int TensorMemory::Allocate(uint32_t columns) {
  const int first = FindRoom(columns, nullptr);
  if (first >= 0) Take(static_cast<uint32_t>(first), columns);
  return first;
}

std::string TensorMemory::CheckFree(uint32_t first, uint32_t columns) const {
  const uint32_t unit = first / kAllocationUnit;
  uint32_t held = 0;
  if (first % kAllocationUnit == 0 && unit < kUnits) {
    while (unit + held < kUnits && first_of_[unit + held] == unit + 1) ++held;
  }
  if (held == 0) return "column " + std::to_string(first) + " begins no allocation";
  if (held * kAllocationUnit != columns) {
    return std::to_string(columns) + " columns of an allocation of " +
           std::to_string(held * kAllocationUnit);
  }
  return std::string();
}

void TensorMemory::Free(uint32_t first, uint32_t columns) {
  std::fill_n(first_of_ + first / kAllocationUnit, columns / kAllocationUnit, 0u);
  for (uint32_t lane = 0; lane < kTensorLanes; ++lane) {
    std::fill_n(Cell(lane, first), columns, kPoison);
    std::fill_n(Written(lane, first), columns, uint8_t{0});
  }
}

std::string TensorMemory::CheckRange(uint32_t first_lane, uint32_t lanes, uint32_t first_column,
                                     uint32_t columns) const {
  if (first_lane + lanes > kTensorLanes || first_column + columns > kTensorColumns) {
    return "lanes " + std::to_string(first_lane) + " to " + std::to_string(first_lane + lanes - 1) +
           ", columns " + std::to_string(first_column) + " to " +
           std::to_string(first_column + columns - 1) + " of a memory of 128 lanes, 512 columns";
  }
  for (uint32_t column = first_column; column < first_column + columns; ++column) {
    if (first_of_[column / kAllocationUnit] == 0) {
      return "column " + std::to_string(column) + ", which is not allocated";
    }
  }
  return std::string();
}

uint32_t TensorMemory::allocated_columns() const {
  return kAllocationUnit *
         static_cast<uint32_t>(std::count_if(first_of_, first_of_ + kUnits,
                                             [](uint32_t first) { return first != 0; }));
}

}  // namespace jax_fa4::emulator
