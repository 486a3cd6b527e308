// tcgen05.* (PTX ISA, "TensorCore 5th Generation Family Instructions"): what they have in common.
#include "emulator/isa/tcgen05.h"

#include "emulator/check/tensor_watch.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// A load's registers are there as soon as the instruction is done; its read of tensor memory is
// known to be done only here.
Step WaitLoad(Warp& warp, const Op&) {
  WatchTensorWait(warp, false);
  return Step::kNext;
}

Step WaitStore(Warp& warp, const Op&) {
  if (warp.tensor_stores != 0) return warp.Wait("tcgen05.wait::st: stores are under way");
  WatchTensorWait(warp, true);
  return Step::kNext;
}

Step FenceBefore(Warp& warp, const Op&) {
  if (warp.machine->races != nullptr) warp.machine->races->FenceBeforeThreadSync(warp);
  return Step::kNext;
}

Step FenceAfter(Warp& warp, const Op&) {
  if (warp.machine->races != nullptr) warp.machine->races->FenceAfterThreadSync(warp);
  return Step::kNext;
}

void DecodeTcgen05(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view what = modifiers.OneOf(
      {"alloc", "dealloc", "relinquish_alloc_permit", "ld", "st", "wait::ld", "wait::st", "mma",
       "commit", "fence::before_thread_sync", "fence::after_thread_sync"});
  if (what == "mma") return DecodeTensorMma(decoder, instruction, &modifiers, op);
  if (what == "commit") return DecodeTensorCommit(decoder, instruction, &modifiers, op);
  if (what == "ld" || what == "st") {
    return DecodeTensorAccess(decoder, instruction, &modifiers, what == "ld", op);
  }
  if (what.rfind("wait", 0) == 0 || what.rfind("fence", 0) == 0) {
    if (what.rfind("wait", 0) == 0) {
      modifiers.OneOf({"sync"});
      modifiers.OneOf({"aligned"});
      op->converged = true;
    }
    modifiers.Done();
    decoder.ExpectOperands(instruction, 0);
    op->run = what == "wait::st"                    ? WaitStore
              : what == "wait::ld"                  ? WaitLoad
              : what == "fence::before_thread_sync" ? FenceBefore
                                                    : FenceAfter;
    return;
  }
  DecodeTensorAllocation(decoder, instruction, &modifiers, what, op);
}

}  // namespace

Cta& PeerCta(const Warp& warp) {
  auto& ctas = warp.cta->cluster->ctas;
  const uint32_t peer = warp.cta->rank ^ 1u;
  if (peer >= ctas.size()) {
    warp.Report("cta-pair", "a pair of CTAs is needed; the cluster has " +
                                std::to_string(ctas.size()) + " and this one is rank " +
                                std::to_string(warp.cta->rank));
  }
  if (ctas[peer]->Exited()) {
    warp.Report("cta-pair", "the pair's other CTA, " + std::to_string(ctas[peer]->linear) +
                                " in the grid, has exited");
  }
  return *ctas[peer];
}

uint64_t UniformValue(Warp& warp, Slot slot, int bytes, const char* what) {
  const auto value = [&](int lane) -> uint64_t {
    return bytes == 8 ? warp.Lanes<uint64_t>(slot)[lane] : warp.Lanes<uint32_t>(slot)[lane];
  };
  const uint64_t first = value(__builtin_ctz(warp.exec));
  ForLanes(warp.exec, [&](int lane) {
    if (value(lane) != first) {
      warp.Report("divergent", std::string("the lanes of a warp give different ") + what, lane);
    }
  });
  return first;
}

void CheckCtaGroup(Warp& warp, int group) {
  int& used = warp.machine->cta_group;
  if (used != 0 && used != group) {
    warp.Report("cta-pair", ".cta_group::" + std::to_string(group) +
                                " in a kernel that uses ::" + std::to_string(used) + ", too");
  }
  used = group;
}

uint64_t TensorQueue(const Warp& warp, int lane) {
  const uint64_t thread = (warp.cta->linear * 64 + static_cast<uint64_t>(warp.index)) * 32 +
                          static_cast<uint64_t>(lane);
  return (uint64_t{1} << 60 | thread) << 1;
}

int TakeCtaGroup(Modifiers* modifiers) {
  return modifiers->OneOf({"cta_group::1", "cta_group::2"}) == "cta_group::2" ? 2 : 1;
}

void RegisterTcgen05(InstructionTable* table) { (*table)["tcgen05"] = DecodeTcgen05; }

}  // namespace jax_fa4::emulator
