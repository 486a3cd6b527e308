// What must be so when a cluster ends, or when nothing goes on.
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// Bytes that an mbarrier still expects, or got without expecting them: a phase that nobody waited
// for, or that would never have come.
void Machine::CheckTransactionsCame() {
  for (auto& cta : cluster.ctas) {
    for (const auto& [offset, barrier] : cta->mbarriers) {
      if (barrier.transactions == 0) continue;
      const Instruction& last = program.entry->instructions.back();
      throw Finding{"mbarrier",
                    "the CTA ends when the mbarrier at shared address " + std::to_string(offset) +
                        (barrier.transactions > 0
                             ? " still expects " + std::to_string(barrier.transactions) + " bytes"
                             : " has got " + std::to_string(-barrier.transactions) +
                                   " bytes that it does not expect"),
                    static_cast<int>(cta->linear),
                    -1,
                    -1,
                    last.where,
                    last.text};
    }
  }
}

// A barrier that ends in the middle of a generation: somebody arrived whom nobody waited for.
void Machine::CheckBarriersAreWhole() {
  for (auto& cta : cluster.ctas) {
    for (size_t id = 0; id < cta->barriers.size(); ++id) {
      const NamedBarrier& barrier = cta->barriers[id];
      if (barrier.arrived == 0) continue;
      const Instruction& last = program.entry->instructions.back();
      throw Finding{"barrier-count",
                    "the CTA ends when " + std::to_string(barrier.arrived) + " of " +
                        std::to_string(barrier.expected) + " threads have arrived at barrier " +
                        std::to_string(id),
                    static_cast<int>(cta->linear),
                    -1,
                    -1,
                    last.where,
                    last.text};
    }
  }
}

// Hardware may let a try_wait return false after a time; code that asks once, without a loop,
// relies on it. Code that asks in a loop would ask forever: after a few rounds in which nothing
// else happened, it is a deadlock.
bool Machine::LetTryWaitsTimeOut() {
  constexpr int kMostRounds = 8;
  timeout_rounds_ = version == version_after_timeouts_ ? timeout_rounds_ + 1 : 0;
  if (timeout_rounds_ == kMostRounds) return false;
  bool any = false;
  for (auto& cta : cluster.ctas) {
    for (auto& warp : cta->warps) {
      if (warp->groups.empty() || warp->timed_out) continue;
      if (warp->wait_reason.rfind("mbarrier.try_wait", 0) != 0) continue;
      warp->timed_out = any = true;
    }
  }
  if (any) version_after_timeouts_ = ++version;
  return any;
}

void Machine::ReportDeadlock() {
  std::string table = "no warp can go on and nothing is under way:";
  const Warp* first = nullptr;
  for (auto& cta : cluster.ctas) {
    for (auto& warp : cta->warps) {
      if (warp->groups.empty()) continue;
      if (first == nullptr) first = warp.get();
      const Instruction& instruction = *warp->op().source;
      table += "\n  CTA " + std::to_string(cta->linear) + " warp " + std::to_string(warp->index) +
               ": " + warp->wait_reason + ", PTX line " + std::to_string(instruction.where.line) +
               (instruction.where.source_line != 0
                    ? ", source line " + std::to_string(instruction.where.source_line)
                    : "");
    }
  }
  first->Report("deadlock", table);
}

}  // namespace jax_fa4::emulator
