#include "emulator/async/mbarriers.h"

namespace jax_fa4::emulator {
namespace {

constexpr int64_t kMaxCount = (1 << 20) - 1;

void CompletePhaseIfDone(Machine* machine, Mbarrier* barrier) {
  if (barrier->pending != 0 || barrier->transactions != 0) return;
  ++barrier->phase;
  barrier->completed.Join(barrier->arriving);
  barrier->pending = barrier->expected;
  ++machine->version;
}

std::string Name(uint64_t address) {
  return "the mbarrier at shared address " + std::to_string(address & 0xffffff);
}

// Each phase must be waited for by somebody before an arrival of the next (PTX ISA 9.7.13.15.4).
std::string CheckObserved(const Machine& machine, const Mbarrier& barrier, uint64_t address) {
  if (machine.options.level == Level::kHardware || barrier.observed >= barrier.phase) return "";
  return Name(address) + " gets an arrival of phase " + std::to_string(barrier.phase) +
         " before a wait has seen the end of phase " + std::to_string(barrier.phase - 1);
}

}  // namespace

Mbarrier& MbarrierAt(Warp& warp, int lane, uint64_t address) {
  Cta& cta = warp.machine->CtaOf(warp, lane, address);
  if (&cta != warp.cta && cta.Exited()) {
    warp.Report("mbarrier",
                Name(address) + " of CTA " + std::to_string(cta.linear) + ", which has exited",
                lane);
  }
  const auto found = cta.mbarriers.find(static_cast<uint32_t>(address & 0xffffff));
  if (found == cta.mbarriers.end()) {
    warp.Report("mbarrier", Name(address) + " was never initialised", lane);
  }
  // Bulk copies too access their mbarrier through the generic proxy (PTX ISA 9.7.9.25.4.1).
  if (warp.machine->races != nullptr) {
    warp.machine->races->UseMbarrier(warp, lane, cta, found->first);
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
  const auto found = cta.mbarriers.find(offset);
  if (found != cta.mbarriers.end()) {
    // The text has no init of a live object (9.7.13.15.9). Working kernels let all lanes of a warp
    // execute one init: they do the same, at once.
    if (warp.machine->options.level == Level::kHardware && found->second.expected == count &&
        found->second.initialised_by == warp.machine->executed) {
      return;
    }
    warp.Report("mbarrier", Name(address) + " is initialised while it is alive", lane);
  }
  Mbarrier& barrier = cta.mbarriers[offset];
  barrier.pending = barrier.expected = count;
  barrier.initialised_by = warp.machine->executed;
  if (warp.machine->races != nullptr) {
    warp.machine->races->InitMbarrier(warp, lane, cta, offset);
  }
}

void ArriveAt(Warp& warp, int lane, uint64_t address, uint32_t count, bool relaxed) {
  Mbarrier& barrier = MbarrierAt(warp, lane, address);
  if (count == 0) warp.Report("mbarrier", "an arrival with a count of 0", lane);
  const std::string unseen = CheckObserved(*warp.machine, barrier, address);
  if (!unseen.empty()) warp.Report("mbarrier", unseen, lane);
  if (count > barrier.pending) {
    warp.Report("mbarrier",
                Name(address) + " gets an arrival more than the " +
                    std::to_string(barrier.expected) + " that it counts in a phase",
                lane);
  }
  // .release is the default (PTX ISA 9.7.13.15.13).
  if (RaceDetector* races = warp.machine->races.get(); races != nullptr) {
    relaxed ? races->ReleaseTensor(warp, &barrier.arriving)
            : races->ReleaseLanes(warp, &barrier.arriving);
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

std::string ArriveFromEngine(Machine* machine, Cta* cta, uint32_t offset,
                             const ProxyClocks& known) {
  const auto found = cta->mbarriers.find(offset);
  if (found == cta->mbarriers.end()) return Name(offset) + " was never initialised";
  if (found->second.pending == 0) return Name(offset) + " gets an arrival too many";
  if (cta->Exited()) return Name(offset) + " gets an arrival after its CTA has exited";
  const std::string unseen = CheckObserved(*machine, found->second, offset);
  if (!unseen.empty()) return unseen;
  found->second.arriving.Join(known);
  --found->second.pending;
  CompletePhaseIfDone(machine, &found->second);
  return std::string();
}

bool PhaseDone(const Mbarrier& barrier, uint32_t parity) { return (barrier.phase & 1) != parity; }

void ObservePhase(Warp& warp, int lane, uint64_t address, Mbarrier* barrier) {
  barrier->observed = barrier->phase;
  uint64_t& seen = warp.phases_seen[static_cast<uint32_t>(address & 0xffffff)];
  if (warp.machine->options.level == Level::kPtx && barrier->phase > seen + 1 &&
      (barrier->phase - seen) % 2 == 1) {
    warp.Report("mbarrier",
                Name(address) + " is waited for by a warp that is " +
                    std::to_string(barrier->phase - 1 - seen) + " phases behind: after phase " +
                    std::to_string(seen) + ", phase " + std::to_string(barrier->phase - 1) +
                    " of the same parity has ended too",
                lane);
  }
  seen = barrier->phase;
}

}  // namespace jax_fa4::emulator
