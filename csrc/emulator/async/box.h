// A tensor map's box, taken apart into runs of neighbouring bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "emulator/async/tensor_map.h"

namespace jax_fa4::emulator {

// Calls body(offset in the box, global address or 0 if outside the tensor, bytes) for every run of
// neighbouring elements of the box.
template <typename Body>
void ForBox(const TensorMap& map, const std::array<int32_t, 5>& at, Body body) {
  const uint32_t element = static_cast<uint32_t>(map.element_bytes);
  const int64_t width = map.box[0], first = at[0];
  // Elements of a row before the tensor begins, and before it ends.
  const int64_t before = std::clamp<int64_t>(-first, 0, width);
  const int64_t end = std::clamp<int64_t>(static_cast<int64_t>(map.dims[0]) - first, before, width);
  uint32_t offset = 0;
  const auto run = [&](int64_t from, int64_t to, uint64_t address) {
    if (from == to) return;
    body(offset + static_cast<uint32_t>(from) * element, address,
         static_cast<uint32_t>(to - from) * element);
  };
  std::array<uint32_t, 5> index = {};
  while (true) {
    bool inside = true;
    uint64_t address = map.address + static_cast<uint64_t>(first + before) * element;
    for (int axis = 1; axis < map.rank; ++axis) {
      const int64_t coordinate = int64_t{at[axis]} + index[axis] * map.steps[axis];
      inside = inside && coordinate >= 0 && coordinate < static_cast<int64_t>(map.dims[axis]);
      address += static_cast<uint64_t>(coordinate) * map.strides[axis];
    }
    if (inside) {
      run(0, before, 0);
      run(before, end, address);
      run(end, width, 0);
    } else {
      run(0, width, 0);
    }
    offset += map.box[0] * element;
    int axis = 1;
    while (axis < map.rank && ++index[axis] == map.box[axis]) index[axis++] = 0;
    if (axis >= map.rank) return;
  }
}

// Calls body(shared address, offset in the run, bytes) for the pieces of a run at `offset` of a box
// at shared address `begin`, which the swizzle takes apart.
template <typename Body>
void ForPieces(const TensorMap& map, uint32_t begin, uint32_t offset, uint32_t bytes, Body body) {
  constexpr uint32_t kPiece = 16;
  if (map.swizzle == 0) return body(begin + offset, 0, bytes);
  for (uint32_t done = 0; done < bytes;) {
    const uint32_t here = std::min(bytes - done, kPiece - (offset + done) % kPiece);
    body(map.Swizzled(begin, offset + done), done, here);
    done += here;
  }
}

}  // namespace jax_fa4::emulator
