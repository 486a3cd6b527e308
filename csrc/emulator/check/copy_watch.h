// What the race detector is told about cp.async (PTX ISA 9.7.9.25.3): copies of a thread, in order
// with nothing until they are waited for.
#pragma once

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// A copy of `read` bytes from global memory, which Machine::Global has just looked up, into `size`
// bytes of shared memory.
void WatchCopy(Warp& warp, int lane, uint64_t from, uint32_t read, const Cta& cta, uint32_t to,
               uint32_t size);
void WatchCopyCommit(Warp& warp, int lane);
// cp.async.wait_group: all groups but the last `pending` are done; wait_all: all copies.
void WatchCopyWait(Warp& warp, int lane, uint32_t pending);
void WatchCopyWaitAll(Warp& warp, int lane);
// What sees an arrival that cp.async.mbarrier.arrive makes now: the lane's copies up to it.
ProxyClocks CopiesReleased(Warp& warp, int lane);

}  // namespace jax_fa4::emulator
