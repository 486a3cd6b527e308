#include "emulator/async/mbarriers.h"

namespace jax_fa4::emulator {
namespace {

constexpr int64_t kMaxCount = (1 << 20) - 1;

void CompletePhaseIfDone(Machine* machine, Mbarrier* barrier) {
  if (barrier->pending != 0 || barrier->transactions != 0) return;
  ++barrier->phase;
  barrier->pending = barrier->expected;
  ++machine->version;
}

std::string Name(uint64_t address) {
  return "the mbarrier at shared address " + std::to_string(address & 0xffffff);
}

}  // namespace

Mbarrier& MbarrierAt(Warp& warp, int lane, uint64_t address) {
  Cta& cta = warp.machine->CtaOf(warp, lane, address);
  const auto found = cta.mbarriers.find(static_cast<uint32_t>(address & 0xffffff));
  if (found == cta.mbarriers.end()) {
    warp.Report("mbarrier", Name(address) + " was never initialised", lane);
  }
  return found->second;
}

void InitMbarrier(Warp& warp, int lane, uint64_t address, uint32_t count) {
  if (count == 0 || count > kMaxCount) {
    warp.Report("mbarrier", "a count of " + std::to_string(count) + "; 1 to 2^20 - 1 is allowed",
                lane);
  }
  warp.machine->Shared(warp, lane, address, 8, true);
  Cta& cta = warp.machine->CtaOf(warp, lane, address);
  const uint32_t offset = static_cast<uint32_t>(address & 0xffffff);
  if (cta.mbarriers.count(offset) != 0) {
    warp.Report("mbarrier", Name(address) + " is initialised while it is alive", lane);
  }
  cta.mbarriers[offset] = {0, count, count, 0};
}

void ArriveAt(Warp& warp, int lane, uint64_t address, uint32_t count) {
  Mbarrier& barrier = MbarrierAt(warp, lane, address);
  if (count == 0) warp.Report("mbarrier", "an arrival with a count of 0", lane);
  if (count > barrier.pending) {
    warp.Report("mbarrier",
                Name(address) + " gets an arrival more than the " +
                    std::to_string(barrier.expected) + " that it counts in a phase",
                lane);
  }
  barrier.pending -= count;
  CompletePhaseIfDone(warp.machine, &barrier);
}

void ExpectTransactions(Warp& warp, int lane, uint64_t address, uint32_t bytes) {
  Mbarrier& barrier = MbarrierAt(warp, lane, address);
  barrier.transactions += bytes;
  if (barrier.transactions > kMaxCount) {
    warp.Report("mbarrier", Name(address) + " expects more than 2^20 - 1 bytes", lane);
  }
}

void CompleteTransactions(Machine* machine, Cta* cta, uint32_t offset, uint32_t bytes) {
  const auto found = cta->mbarriers.find(offset);
  if (found == cta->mbarriers.end()) return;
  found->second.transactions -= bytes;
  CompletePhaseIfDone(machine, &found->second);
}

bool PhaseDone(const Mbarrier& barrier, uint32_t parity) { return (barrier.phase & 1) != parity; }

}  // namespace jax_fa4::emulator
