// clusterlaunchcontrol.* (PTX ISA): a running cluster takes over the work of one that has not
// started. The 16-byte response, which only query_cancel reads, holds the x, y and z of the first
// CTA, and 1 if there was a cluster to cancel.
#include "emulator/async/mbarriers.h"
#include "emulator/check/bulk_watch.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

constexpr uint32_t kResponseBytes = 16;

uint64_t AddressValue(Warp& warp, Slot slot, int bytes, int lane) {
  return bytes == 8 ? warp.Lanes<uint64_t>(slot)[lane] : warp.Lanes<uint32_t>(slot)[lane];
}

// op.a + op.immediate = response, op.d + op.target = mbarrier; op.small = bytes of a and d, 4 bits
// each; op.count: to every CTA of the cluster.
Step TryCancel(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t response =
        AddressValue(warp, op.a, op.small & 15, lane) + static_cast<uint64_t>(op.immediate);
    const uint64_t barrier =
        AddressValue(warp, op.d, op.small >> 4, lane) + static_cast<uint64_t>(int64_t{op.target});
    std::vector<Cta*> ctas;
    std::vector<WatchedLoad> watched;
    const uint32_t response_at = static_cast<uint32_t>(response & 0xffffff);
    const uint32_t barrier_at = static_cast<uint32_t>(barrier & 0xffffff);
    for (auto& cta : machine->cluster.ctas) {
      if (op.count == 0 && cta.get() != warp.cta) continue;
      const uint64_t rank = uint64_t{cta->rank} << 24;
      machine->Shared(warp, lane, rank | response_at, kResponseBytes, true);
      warp.Note(rank | barrier_at, MbarrierAt(warp, lane, rank | barrier_at).phase, kResponseBytes);
      ctas.push_back(cta.get());
      watched.push_back(WatchLoad(warp, lane, *cta, response_at, kResponseBytes, *cta, barrier_at));
    }
    if (warp.cta->cancel_failed) {
      warp.Report("cluster-launch", "try_cancel after one that failed", lane);
    }
    machine->Start(machine->NewQueue(), [=] {
      uint32_t words[4] = {};
      Dim3 id;
      if (machine->CancelCluster(&id)) {
        const Dim3& size = machine->launch.cluster;
        words[0] = id.x * size.x;
        words[1] = id.y * size.y;
        words[2] = id.z * size.z;
        words[3] = 1;
      }
      for (size_t i = 0; i < ctas.size(); ++i) {
        std::memcpy(ctas[i]->shared.data() + response_at, words, kResponseBytes);
        LoadCompletes(machine, watched[i], *ctas[i], barrier_at);
        CompleteTransactions(machine, ctas[i], barrier_at, kResponseBytes);
      }
    });
  });
  return Step::kNext;
}

Step IsCanceled(Warp& warp, const Op& op) {
  uint32_t canceled = 0;
  ForLanes(warp.exec, [&](int lane) {
    if (warp.Lanes<uint32_t>(op.a)[4 * lane + 3] == 1) {
      canceled |= 1u << lane;
    } else {
      warp.cta->cancel_failed = true;
    }
  });
  uint32_t& d = warp.Predicate(op.d);
  d = (d & ~warp.exec) | canceled;
  return Step::kNext;
}

// op.first, op.count = registers, from dimension op.small on.
Step FirstCtaid(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  ForLanes(warp.exec, [&](int lane) {
    const uint32_t* words = warp.Lanes<uint32_t>(op.a) + 4 * lane;
    const bool canceled = words[3] == 1;
    // Undefined where the request failed (9.7.13.18). CUTLASS's schedulers ask nevertheless, and
    // take the answer only where it succeeded: here it is one that no grid has.
    if (!canceled && warp.machine->options.level != Level::kHardware) {
      warp.Report("cluster-launch", "the first CTA of a cluster that was not cancelled", lane);
    }
    for (uint32_t i = 0; i < op.count; ++i) {
      warp.Lanes<uint32_t>(slots[i])[lane] = canceled ? words[op.small + i] : 0xffffffffu;
    }
  });
  return Step::kNext;
}

void DecodeTryCancel(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op) {
  modifiers->OneOf({"async"});
  modifiers->OneOf({"shared::cta"});
  modifiers->OneOf({"mbarrier::complete_tx::bytes"});
  op->count = modifiers->Take("multicast::cluster::all") ? 1 : 0;
  modifiers->OneOf({"b128"});
  modifiers->Done();
  decoder.ExpectOperands(instruction, 2);
  Op barrier;
  decoder.Address(instruction.operands[1], 0, &barrier);
  decoder.Address(instruction.operands[0], 0, op);
  op->d = barrier.a;
  op->target = static_cast<int32_t>(barrier.immediate);
  op->small = static_cast<uint8_t>(op->small | barrier.small << 4);
  op->run = TryCancel;
}

void DecodeClusterLaunch(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  if (modifiers.OneOf({"try_cancel", "query_cancel"}) == "try_cancel") {
    return DecodeTryCancel(decoder, instruction, &modifiers, op);
  }
  const std::string_view what =
      modifiers.OneOf({"is_canceled", "get_first_ctaid", "get_first_ctaid::x", "get_first_ctaid::y",
                       "get_first_ctaid::z"});
  const bool vector = what == "get_first_ctaid";
  if (vector) modifiers.OneOf({"v4"});
  modifiers.OneOf({what == "is_canceled" ? "pred" : "b32"});
  modifiers.OneOf({"b128"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 2);
  op->a = decoder.Source(instruction.operands[1], 16);
  if (what == "is_canceled") {
    op->d = decoder.PredicateDestination(instruction.operands[0]);
    op->run = IsCanceled;
    return;
  }
  if (decoder.Elements(instruction.operands[0], 4, true, op) != (vector ? 4u : 1u)) {
    decoder.Fail(instruction.operands[0], "not as many registers as the instruction gives");
  }
  op->small = vector ? 0 : static_cast<uint8_t>(what.back() - 'x');
  op->run = FirstCtaid;
}

}  // namespace

void RegisterClusterLaunch(InstructionTable* table) {
  (*table)["clusterlaunchcontrol"] = DecodeClusterLaunch;
}

}  // namespace jax_fa4::emulator
