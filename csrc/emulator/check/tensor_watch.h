// What the race detector is told about tcgen05 instructions.
#pragma once

#include <vector>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// Cells of one CTA's tensor memory: columns of some quadrants of 32 lanes.
struct TensorCells {
  uint32_t quadrants = 0xf;  // a bit each
  uint8_t lanes = 0xf;       // of each quadrant, a bit for 8
  uint32_t column = 0;
  uint32_t columns = 0;
  uint32_t second = 0;  // as many columns again from `column` + `second` on, if not 0
};

// A tcgen05.ld or st of `warp`; returns its number among them, from 1 on.
uint32_t WatchTensorAccess(Warp& warp, bool write, const TensorCells& cells);
// A tcgen05.wait::ld or st: those before it are done.
void WatchTensorWait(Warp& warp, bool stores);
// The warp's loads up to number `load` are known to be done.
void WatchTensorLoads(Warp& warp, uint32_t load);

// tcgen05.alloc's write of its result.
void WatchAllocation(Warp& warp, const Cta& cta, uint32_t offset);

// A tcgen05.mma that `lane` issues. Its operands in shared memory and all of its accesses to tensor
// memory are its own until a later tcgen05.commit of the lane has been waited for.
class WatchedProduct {
 public:
  // `pipeline` is the same for products of the same CTAs, shape and accumulator, and not 0.
  WatchedProduct(Warp& warp, int lane, uint32_t pipeline);
  // 16 bytes at each of `addresses`.
  void ReadShared(const Cta& cta, const std::vector<uint32_t>& addresses);
  void Read(const Cta& cta, const TensorCells& cells) { Visit(cta, cells, false); }
  void Write(const Cta& cta, const TensorCells& cells) { Visit(cta, cells, true); }

 private:
  void Visit(const Cta& cta, const TensorCells& cells, bool write);

  Warp& warp_;
  int lane_;
  uint32_t pipeline_;
  EntityId channel_ = 0;
  uint32_t time_ = 0;
};

}  // namespace jax_fa4::emulator
