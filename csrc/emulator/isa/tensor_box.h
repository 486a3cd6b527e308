// Boxes of tensors that copies move: their maps, and what must be so of them.
#pragma once

#include <array>

#include "emulator/async/tensor_map.h"
#include "emulator/check/bulk_watch.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// The tensor map at an address, of a parameter or in global memory.
TensorMap MapAt(Warp& warp, int lane, uint64_t address);

// Checks a box's global side, and tells the race detector of it.
void CheckBox(Warp& warp, int lane, const TensorMap& map, const std::array<int32_t, 5>& at,
              bool write, GlobalRuns* runs);

// The rank in the opcode is the map's.
void CheckRank(Warp& warp, const Op& op, const TensorMap& map, int lane);

// Where a box may begin: at 16 bytes (PTX ISA 5.5.3.1), and for a store at no negative coordinate
// (9.7.9.27.1.2). An H100 gives up with an illegal instruction.
void CheckCorner(Warp& warp, const TensorMap& map, const std::array<int32_t, 5>& at, bool stores,
                 int lane);

void CheckShared(Warp& warp, const TensorMap& map, uint64_t shared, int lane);

}  // namespace jax_fa4::emulator
