// tcgen05.commit (PTX ISA, "tcgen05.commit"): an mbarrier learns that all products that the thread
// issued before are complete.
#include "emulator/async/mbarriers.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/tcgen05.h"

namespace jax_fa4::emulator {
namespace {

// op.a + op.immediate = mbarrier, op.b = mask of CTAs or kNoSlot, op.target = CTAs of the group.
Step Commit(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  CheckCtaGroup(warp, op.target);
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t base =
        op.small == 8 ? warp.Lanes<uint64_t>(op.a)[lane] : warp.Lanes<uint32_t>(op.a)[lane];
    const uint64_t address = base + static_cast<uint64_t>(op.immediate);
    const Origin origin(warp, lane);
    std::vector<Cta*> ctas;
    if (op.b == kNoSlot) {
      ctas.push_back(&machine->CtaOf(warp, lane, address));
    } else {
      const uint32_t mask = warp.Lanes<uint32_t>(op.b)[lane] & 0xffffu;
      for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        const uint64_t rank = static_cast<uint64_t>(__builtin_ctz(rest));
        ctas.push_back(&machine->CtaOf(warp, lane, rank << 24));
      }
    }
    const uint32_t offset = static_cast<uint32_t>(address & 0xffffff);
    for (const Cta* cta : ctas) {
      const auto barrier = cta->mbarriers.find(offset);
      if (barrier == cta->mbarriers.end()) continue;  // found fault with when it completes
      warp.Note(uint64_t{cta->rank} << 24 | offset, barrier->second.phase, 1);
    }
    // Who sees the arrival comes after the thread's products, and after what it knew.
    ProxyClocks known;
    if (machine->races != nullptr) known = machine->races->CommitProducts(warp, lane);
    // Nothing orders the arrivals of two commits: they are no pair of PTX ISA 9.7.16.6.2.
    machine->Start(TensorQueue(warp, lane), [=] {
      for (Cta* cta : ctas) {
        machine->Follow([=] {
          const std::string wrong = ArriveFromEngine(machine, cta, offset, known);
          if (!wrong.empty()) origin.Report("mbarrier", wrong);
        });
      }
    });
  });
  return Step::kNext;
}

}  // namespace

void DecodeTensorCommit(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                        Op* op) {
  op->target = TakeCtaGroup(modifiers);
  modifiers->OneOf({"mbarrier::arrive::one"});
  modifiers->OneOf({"shared::cluster"});
  const bool multicast = modifiers->Take("multicast::cluster");
  modifiers->OneOf({"b64"});
  modifiers->Done();
  decoder.ExpectOperands(instruction, multicast ? 2 : 1);
  decoder.Address(instruction.operands[0], 0, op);
  if (multicast) op->b = decoder.Source(instruction.operands[1], 4);
  op->run = Commit;
}

}  // namespace jax_fa4::emulator
