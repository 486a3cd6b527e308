#include "emulator/isa/local.h"

#include <cstdlib>
#include <new>
#include <string>

namespace jax_fa4::emulator {

uint8_t* Local(Warp& warp, int lane, uint64_t address, uint32_t size, bool write) {
  const uint64_t bytes = warp.machine->program.local_bytes;
  const std::string place = "local address " + std::to_string(address);
  if (address > bytes || size > bytes - address) {
    warp.Report(
        "out-of-bounds",
        std::to_string(size) + " bytes at " + place + "; the thread has " + std::to_string(bytes),
        lane);
  }
  if (address % size != 0) {
    warp.Report("misaligned", place + " is not aligned to " + std::to_string(size) + " bytes",
                lane);
  }
  if (warp.local == nullptr) {
    // The bytes of all lanes, then which of them were written; calloc takes what is touched only.
    warp.local.reset(static_cast<uint8_t*>(std::calloc(64, bytes)));
    if (warp.local == nullptr) throw std::bad_alloc();
  }
  uint8_t* at = warp.local.get() + static_cast<uint64_t>(lane) * bytes + address;
  uint8_t* written = at + 32 * bytes;
  if (write) {
    std::memset(written, 1, size);
  } else if (std::memchr(written, 0, size) != nullptr) {
    warp.Report("uninitialised", "a read of " + place + ", which nothing has written", lane);
  }
  return at;
}

}  // namespace jax_fa4::emulator
