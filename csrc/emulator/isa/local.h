// A thread's local memory.
#pragma once

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// `size` bytes at a lane's local address; they must lie in it, be aligned and, to be read, written.
uint8_t* Local(Warp& warp, int lane, uint64_t address, uint32_t size, bool write);

}  // namespace jax_fa4::emulator
