#include "emulator/async/tensor_map.h"

#include <cstring>

namespace jax_fa4::emulator {

uint64_t TensorMap::BoxBytes() const {
  uint64_t bytes = static_cast<uint64_t>(element_bytes);
  for (int axis = 0; axis < rank; ++axis) bytes *= box[axis];
  return bytes;
}

// The swizzle permutes 16-byte chunks by bits of the absolute shared address.
uint32_t TensorMap::Swizzled(uint32_t begin, uint32_t offset) const {
  const uint32_t address = begin + offset;
  const uint32_t mask = (1u << swizzle) - 1;  // 0, 1, 3, 7
  return address ^ ((address >> 7 & mask) << 4);
}

void TensorMap::Fill(uint8_t* to, uint32_t bytes) const {
  for (uint32_t at = 0; at < bytes; ++at) to[at] = !fill_nan ? 0 : at % 2 == 0 ? 0xf7 : 0x7f;
}

// The layout was read off a driver's own maps, one parameter at a time.
std::string ReadTensorMap(const uint8_t* bytes, TensorMap* map) {
  uint64_t words[8];
  std::memcpy(words, bytes, sizeof(words));
  const auto field = [&](int word, int first, int count) {
    return words[word] >> first & ((uint64_t{1} << count) - 1);
  };
  static constexpr int kElementBytes[] = {1, 2, 4, 4, 8, 8, 2, 4, 4, 8, 2};
  // The driver for CUDA 13.0 writes 0, CuTe DSL 2; an H100 takes both.
  const uint64_t version = field(1, 0, 4);
  if (version != 0 && version != 2) return "an unknown version";
  const uint64_t type = field(1, 7, 4);
  if (type >= sizeof(kElementBytes) / sizeof(kElementBytes[0])) return "an unknown element type";
  if (field(1, 11, 2) != 0) return "an interleaved layout";
  if (field(1, 16, 1) != 0) return "conversion to tf32";
  const bool is_float = type >= 6;
  map->fill_nan = field(1, 15, 1) != 0;
  if (map->fill_nan && !is_float) return "out-of-bounds fill with NaN for integers";
  map->address = words[0] & 0x1fffffffffffff0ull;
  map->rank = static_cast<int>(field(1, 4, 3)) + 1;
  if (map->rank > 5) return "more than five dimensions";
  map->element_bytes = kElementBytes[type];
  map->swizzle = static_cast<int>(field(1, 13, 2));
  const uint64_t dims[5] = {field(4, 0, 32), field(4, 32, 32), field(5, 0, 32), field(5, 32, 32),
                            field(6, 0, 32)};
  const uint64_t strides[5] = {
      0, field(1, 32, 32) | field(3, 32, 4) << 32, field(2, 0, 32) | field(3, 36, 4) << 32,
      field(2, 32, 32) | field(3, 40, 4) << 32, field(3, 0, 32) | field(3, 44, 4) << 32};
  const uint64_t box[5] = {field(6, 56, 8), field(7, 0, 8), field(7, 8, 8), field(7, 16, 8),
                           field(7, 24, 8)};
  for (int axis = 0; axis < 5; ++axis) {
    map->dims[axis] = dims[axis] + 1;
    map->strides[axis] = axis == 0 ? static_cast<uint64_t>(map->element_bytes) : strides[axis] << 4;
    // The first dimension has no steps without interleaving, whatever the map says.
    map->steps[axis] = axis == 0 ? 1 : static_cast<uint32_t>(field(6, 32 + 3 * axis, 3)) + 1;
    map->box[axis] = (static_cast<uint32_t>(box[axis]) + map->steps[axis]) / map->steps[axis];
  }
  return std::string();
}

}  // namespace jax_fa4::emulator
