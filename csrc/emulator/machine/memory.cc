// Global and shared memory: every access is within bounds, aligned and of something written.
#include <algorithm>

#include "emulator/machine/hex.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

uint8_t* Machine::Global(const Warp& warp, int lane, uint64_t address, uint32_t size, bool write) {
  const auto holds = [&](const GlobalRange& range) {
    return address >= range.begin && address + size <= range.end && address + size >= address;
  };
  if (address % std::min<uint32_t>(size, 16) != 0 && (size & (size - 1)) == 0 && size <= 16) {
    warp.Report(
        "misaligned",
        Hex(address) + " in global memory is not aligned to " + std::to_string(size) + " bytes",
        lane);
  }
  if (last_range_ >= launch.memory.size() || !holds(launch.memory[last_range_])) {
    last_range_ = launch.memory.size();
    for (size_t i = 0; i < launch.memory.size(); ++i) {
      if (holds(launch.memory[i])) last_range_ = i;
    }
  }
  if (last_range_ == launch.memory.size()) {
    warp.Report(
        "out-of-bounds",
        std::to_string(size) + " bytes at " + Hex(address) + " lie in no buffer of the kernel",
        lane);
  }
  const GlobalRange& range = launch.memory[last_range_];
  if (write && !range.writable) {
    warp.Report("read-only", "a write to " + range.name + ", which is read-only", lane);
  }
  return reinterpret_cast<uint8_t*>(address);
}

Cta& Machine::CtaOf(const Warp& warp, int lane, uint64_t address) {
  const uint64_t rank = address >> 24;
  if (rank >= cluster.ctas.size()) {
    warp.Report("out-of-bounds",
                Hex(address) + " is an address of CTA " + std::to_string(rank) +
                    " in a cluster of " + std::to_string(cluster.ctas.size()),
                lane);
  }
  return *cluster.ctas[rank];
}

uint8_t* Machine::Shared(const Warp& warp, int lane, uint64_t address, uint32_t size, bool write) {
  Cta& cta = CtaOf(warp, lane, address);
  const uint64_t offset = address & 0xffffff;
  if (offset < kSharedBase || offset + size > cta.shared_end) {
    warp.Report("out-of-bounds",
                std::to_string(size) + " bytes at shared address " + Hex(offset) +
                    "; the CTA has " + Hex(kSharedBase) + " to " + Hex(cta.shared_end),
                lane);
  }
  if (size <= 16 && (size & (size - 1)) == 0 && offset % size != 0) {
    warp.Report(
        "misaligned",
        "shared address " + Hex(offset) + " is not aligned to " + std::to_string(size) + " bytes",
        lane);
  }
  uint8_t* initialised = cta.shared_initialised.data() + offset;
  if (write) {
    std::memset(initialised, 1, size);
  } else if (std::memchr(initialised, 0, size) != nullptr) {
    warp.Report("uninitialised",
                "a read of shared address " + Hex(offset) + ", which nothing has written", lane);
  }
  return cta.shared.data() + offset;
}

}  // namespace jax_fa4::emulator
