#include "emulator/isa/tensor_box.h"

#include "emulator/async/box.h"

namespace jax_fa4::emulator {

TensorMap MapAt(Warp& warp, int lane, uint64_t address) {
  const std::vector<uint8_t>& parameters = warp.machine->launch.parameters;
  const uint8_t* bytes = nullptr;
  if ((address & kWindowMask) == kParameterWindow) {
    const uint64_t offset = address & ~kWindowMask;
    if (offset + 128 > parameters.size()) {
      warp.Report("out-of-bounds", "a tensor map past the parameters", lane);
    }
    if (offset % 64 != 0) warp.Report("misaligned", "a tensor map not aligned to 64 bytes", lane);
    bytes = parameters.data() + offset;
  } else {
    bytes = warp.machine->Global(warp, lane, address, 128, false);
  }
  TensorMap map;
  const std::string wrong = ReadTensorMap(bytes, &map);
  if (!wrong.empty()) warp.Report("tensor-map", "the tensor map has " + wrong, lane);
  return map;
}

void CheckBox(Warp& warp, int lane, const TensorMap& map, const std::array<int32_t, 5>& at,
              bool write, GlobalRuns* runs) {
  Machine* machine = warp.machine;
  const uint32_t element = static_cast<uint32_t>(map.element_bytes);
  ForBox(map, at, [&](uint32_t, uint64_t address, uint32_t bytes) {
    if (address == 0) return;
    machine->Global(warp, lane, address, element, write);
    if (machine->LastGlobalHolds(address, bytes)) return runs->Add(address, bytes);
    for (uint32_t done = 0; done < bytes; done += element) {
      machine->Global(warp, lane, address + done, element, write);
      runs->Add(address + done, element);
    }
  });
}

void CheckRank(Warp& warp, const Op& op, const TensorMap& map, int lane) {
  if (map.rank != static_cast<int>(op.count)) {
    warp.Report("tensor-map",
                "a map of " + std::to_string(map.rank) + " dimensions in a copy of " +
                    std::to_string(op.count),
                lane);
  }
}

void CheckCorner(Warp& warp, const TensorMap& map, const std::array<int32_t, 5>& at, bool stores,
                 int lane) {
  const int64_t first = int64_t{at[0]} * map.element_bytes;
  if (first % 16 != 0) {
    warp.Report("misaligned",
                "a box that begins " + std::to_string(first) +
                    " bytes from the tensor's first, which is no multiple of 16",
                lane);
  }
  for (int axis = 0; stores && axis < map.rank; ++axis) {
    if (at[axis] >= 0) continue;
    warp.Report("tensor-map",
                "a store to coordinate " + std::to_string(at[axis]) + " of dimension " +
                    std::to_string(axis) + ", which is negative",
                lane);
  }
}

void CheckShared(Warp& warp, const TensorMap& map, uint64_t shared, int lane) {
  if (shared % 128 != 0) {
    warp.Report("misaligned", "the box's shared address is not aligned to 128 bytes", lane);
  }
  const uint32_t span = map.swizzle == 0 ? 256u * 16 : 16u << map.swizzle;
  if (map.swizzle != 0 && map.box[0] * static_cast<uint32_t>(map.element_bytes) > span) {
    warp.Report("tensor-map", "a box wider than its swizzle", lane);
  }
  if (map.BoxBytes() > kSharedBytes) {
    warp.Report(
        "out-of-bounds",
        "a box of " + std::to_string(map.BoxBytes()) + " bytes is larger than a CTA's memory",
        lane);
  }
  if (map.swizzle != 0 && map.BoxBytes() % span != 0) {
    warp.Report("tensor-map", "a swizzled box of broken rows", lane);
  }
}

}  // namespace jax_fa4::emulator
