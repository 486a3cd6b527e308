// What the race detector is told about bulk asynchronous copies.
#pragma once

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// The global side of a copy, told in runs of neighbouring bytes.
class GlobalRuns {
 public:
  GlobalRuns(Warp& warp, int lane, bool write, EntityId channel, uint32_t time)
      : warp_(warp), lane_(lane), write_(write), channel_(channel), time_(time) {}
  void Add(uint64_t address, uint32_t bytes);
  // Tells the last run. Returns the access, or 0 if there was none to tell of.
  AccessId Done();

 private:
  void Flush();

  Warp& warp_;
  int lane_;
  bool write_;
  EntityId channel_;
  uint32_t time_;
  Party party_;
  uint64_t begin_ = 0, end_ = 0;
};

// A copy from global memory into a box of shared memory that completes on an mbarrier.
struct WatchedLoad {
  AccessId write = 0;
  AccessId read = 0;
  EntityId channel = 0;
};
// Its read of `bytes` bytes of shared memory, or of the global memory that Machine::Global has just
// looked up.
void WatchLoadFromShared(Warp& warp, int lane, const Cta& cta, uint32_t begin, uint32_t bytes,
                         WatchedLoad* load);
void WatchLoadFromGlobal(Warp& warp, int lane, uint64_t address, uint32_t bytes, WatchedLoad* load);
WatchedLoad WatchLoad(Warp& warp, int lane, const Cta& cta, uint32_t begin, uint32_t bytes,
                      const Cta& barrier_cta, uint32_t barrier);
// To be called just before its bytes are counted.
void LoadCompletes(Machine* machine, const WatchedLoad& load, const Cta& barrier_cta,
                   uint32_t barrier);

// A copy from shared memory in the lane's open bulk group, number `group` from 1 on: its read of
// shared memory. Returns the channel of its writes.
EntityId WatchStore(Warp& warp, int lane, const Cta& cta, uint32_t begin, uint32_t bytes,
                    uint64_t group);

// Its write of the global memory that Machine::Global has just looked up; `atomic`: a reduction.
void WatchStoreTo(Warp& warp, int lane, uint64_t address, uint32_t bytes, bool atomic,
                  EntityId channel, uint64_t group);

// A lane's wait for its bulk groups up to number `reads` to have been read, `writes` written.
void WatchBulkWait(Warp& warp, int lane, uint64_t reads, uint64_t writes);

}  // namespace jax_fa4::emulator
