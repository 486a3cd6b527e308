// Named barriers and fences (PTX ISA, "bar", "barrier", "membar/fence").
#include "emulator/isa/cluster.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

uint32_t Uniform(Warp& warp, Slot slot, const char* what) {
  const uint32_t* lanes = warp.Lanes<uint32_t>(slot);
  const uint32_t value = lanes[__builtin_ctz(warp.exec)];
  ForLanes(warp.exec, [&](int lane) {
    if (lanes[lane] != value) {
      warp.Report("divergent", std::string("the lanes of a warp name different ") + what, lane);
    }
  });
  return value;
}

// Adds this warp's 32 threads; true if that completes the barrier.
bool Arrive(Warp& warp, NamedBarrier* barrier, uint32_t id, uint32_t expected) {
  if (barrier->arrived != 0 && barrier->expected != expected) {
    warp.Report("barrier-count", "barrier " + std::to_string(id) + " is used with " +
                                     std::to_string(expected) + " threads, by others with " +
                                     std::to_string(barrier->expected));
  }
  barrier->expected = expected;
  barrier->arrived += 32;
  if (barrier->arrived > expected) {
    warp.Report("barrier-count", "more threads arrive at barrier " + std::to_string(id) +
                                     " than the " + std::to_string(expected) + " it counts");
  }
  RaceDetector* races = warp.machine->races.get();
  if (races != nullptr) races->Release(warp, &barrier->arriving);
  if (barrier->arrived < expected) return false;
  barrier->completed.Join(barrier->arriving);
  barrier->arrived = 0;
  ++barrier->generation;
  ++warp.machine->version;
  return true;
}

// Arrivals synchronise with every bar.sync of the same barrier (PTX ISA 8.9.4).
Step Leave(Warp& warp, const NamedBarrier& barrier) {
  RaceDetector* races = warp.machine->races.get();
  if (races != nullptr) races->Acquire(warp, barrier.completed);
  if (races != nullptr) races->MeetLanes(warp, warp.exec);
  return Step::kNext;
}

// op.a = barrier, op.b = threads or kNoSlot for all of the CTA's.
template <bool kWaits>
Step Bar(Warp& warp, const Op& op) {
  const uint32_t id = Uniform(warp, op.a, "barriers");
  if (id >= 16) warp.Report("barrier-count", "barrier " + std::to_string(id) + " of 16");
  NamedBarrier& barrier = warp.cta->barriers[id];
  const auto waiting = barrier.waiting.find(warp.index);
  if (waiting != barrier.waiting.end()) {
    warp.Note(id, waiting->second, 0);
    if (barrier.generation <= waiting->second) {
      return warp.Wait("bar.sync " + std::to_string(id) + ": " + std::to_string(barrier.arrived) +
                       " of " + std::to_string(barrier.expected) + " threads are there");
    }
    barrier.waiting.erase(waiting);
    return Leave(warp, barrier);
  }
  const uint32_t expected =
      op.b == kNoSlot ? static_cast<uint32_t>((warp.machine->launch.block.Count() + 31) / 32 * 32)
                      : Uniform(warp, op.b, "thread counts");
  if (expected == 0 || expected % 32 != 0) {
    warp.Report("barrier-count", std::to_string(expected) + " threads is no multiple of 32");
  }
  const uint64_t generation = barrier.generation;
  warp.Note(id, generation, 32);
  const bool complete = Arrive(warp, &barrier, id, expected);
  if (!kWaits) return Step::kNext;
  if (complete) return Leave(warp, barrier);
  barrier.waiting[warp.index] = generation;
  return warp.Wait("bar.sync " + std::to_string(id) + ": " + std::to_string(barrier.arrived) +
                   " of " + std::to_string(expected) + " threads are there");
}

Step WarpSync(Warp& warp, const Op& op) {
  const uint32_t members = warp.Lanes<uint32_t>(op.a)[__builtin_ctz(warp.exec)];
  if ((members & warp.alive & ~warp.exec) != 0) return warp.Wait("bar.warp.sync");
  if (warp.machine->races != nullptr) warp.machine->races->MeetLanes(warp, members);
  return Step::kNext;
}

Step Nothing(Warp&, const Op&) { return Step::kNext; }

Step FenceMbarrierInit(Warp& warp, const Op&) {
  if (warp.machine->races != nullptr) warp.machine->races->FenceMbarrierInit(warp);
  return Step::kNext;
}

// fence.proxy.async (PTX ISA 9.7.13.4); here generic accesses matter, the way back needs no fence.
Step FenceProxyAsync(Warp& warp, const Op&) {
  if (warp.machine->races != nullptr) warp.machine->races->FenceProxyAsync(warp);
  return Step::kNext;
}

void DecodeBar(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  if (modifiers.Take("warp")) {
    modifiers.OneOf({"sync"});
    modifiers.Done();
    decoder.ExpectOperands(instruction, 1);
    op->run = WarpSync;
    op->a = decoder.Source(instruction.operands[0], 4);
    return;
  }
  if (modifiers.Take("cluster")) {
    DecodeClusterBarrier(decoder, instruction, &modifiers, op);
    return;
  }
  modifiers.Take("cta");
  const bool waits = modifiers.OneOf({"sync", "arrive"}) == "sync";
  const bool aligned = modifiers.Take("aligned");
  modifiers.Done();
  if (instruction.operands.empty() || instruction.operands.size() > 2) {
    decoder.Fail(instruction, "one or two operands are expected");
  }
  op->converged = instruction.opcode[0] == "bar" || aligned;
  op->run = waits ? Bar<true> : Bar<false>;
  op->a = decoder.Source(instruction.operands[0], 4);
  if (instruction.operands.size() == 2) op->b = decoder.Source(instruction.operands[1], 4);
  if (!waits && op->b == kNoSlot) decoder.Fail(instruction, "an arrive needs a thread count");
}

void DecodeFence(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  op->run = Nothing;  // memory here is sequentially consistent; ordering is checked elsewhere
  if (modifiers.Take("proxy")) {
    const std::string_view kind = modifiers.OneOf({"async", "alias", "async::generic"});
    if (kind == "async") {
      op->run = FenceProxyAsync;
      modifiers.Take("shared::cta");
      modifiers.Take("shared::cluster");
      modifiers.Take("global");
    }
  } else if (modifiers.Take("mbarrier_init")) {
    modifiers.OneOf({"release"});
    modifiers.OneOf({"cluster"});
    op->run = FenceMbarrierInit;
  } else {
    modifiers.OneOf({"acq_rel", "sc", "acquire", "release"});
    modifiers.OneOf({"cta", "cluster", "gpu", "sys"});
  }
  modifiers.Done();
}

}  // namespace

void RegisterBarrier(InstructionTable* table) {
  (*table)["bar"] = DecodeBar;
  (*table)["barrier"] = DecodeBar;
  (*table)["fence"] = DecodeFence;
}

}  // namespace jax_fa4::emulator
