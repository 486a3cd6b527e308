// mbarrier.* (PTX ISA, "mbarrier").
#include "emulator/async/mbarriers.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

uint64_t AddressOf(Warp& warp, const Op& op, int lane) {
  const uint64_t base =
      op.small == 8 ? warp.Lanes<uint64_t>(op.a)[lane] : warp.Lanes<uint32_t>(op.a)[lane];
  return base + static_cast<uint64_t>(op.immediate);
}

Step Init(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    InitMbarrier(warp, lane, AddressOf(warp, op, lane), warp.Lanes<uint32_t>(op.b)[lane]);
  });
  return Step::kNext;
}

// The state that an arrival returns: opaque, the phase that it belongs to.
void ReturnState(Warp& warp, const Op& op, int lane, uint64_t address) {
  if (op.d == kNoSlot) return;
  warp.Lanes<uint64_t>(op.d)[lane] = MbarrierAt(warp, lane, address).phase;
}

// op.b = count, or kNoSlot for one; op.d = state, or kNoSlot; op.first = 1 if relaxed.
Step Arrive(Warp& warp, const Op& op) {
  uint64_t last_address = 0, last_phase = 0;
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t address = AddressOf(warp, op, lane);
    const uint32_t count = op.b == kNoSlot ? 1 : warp.Lanes<uint32_t>(op.b)[lane];
    const Mbarrier& barrier = MbarrierAt(warp, lane, address);
    // Nothing forbids it, but whoever waits for the first phase has not seen all arrive.
    if (address == last_address && barrier.phase != last_phase) {
      warp.Report("mbarrier",
                  "the arrivals of one instruction at shared address " +
                      std::to_string(address & 0xffffff) + " complete phase " +
                      std::to_string(last_phase) + " and go on in the next: it counts " +
                      std::to_string(barrier.expected) + " in a phase",
                  lane);
    }
    last_address = address;
    last_phase = barrier.phase;
    ReturnState(warp, op, lane, address);
    warp.Note(address, barrier.phase, count);
    ArriveAt(warp, lane, address, count, op.first == 1);
  });
  return Step::kNext;
}

Step ArriveExpectTx(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t address = AddressOf(warp, op, lane);
    const uint32_t bytes = warp.Lanes<uint32_t>(op.b)[lane];
    ReturnState(warp, op, lane, address);
    warp.Note(address, MbarrierAt(warp, lane, address).phase, bytes);
    ExpectTransactions(warp, lane, address, bytes);
    ArriveAt(warp, lane, address, 1, op.first == 1);
  });
  return Step::kNext;
}

// A successful wait sees what arrivals of the completed phases released, and the bulk copies that
// completed on them (PTX ISA 9.7.13.15.16); a relaxed one orders tcgen05 instructions alone.
void AcquirePhase(Warp& warp, int lane, uint64_t address, const Mbarrier& barrier, bool relaxed) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  if (relaxed) return races->AcquireTensor(warp, barrier.completed);
  races->Acquire(warp, barrier.completed);
  const Cta& cta = warp.machine->CtaOf(warp, lane, address);
  races->Observe(warp, warp.exec,
                 races->MbarrierChannel(cta, static_cast<uint32_t>(address & 0xffffff)),
                 static_cast<uint32_t>(barrier.phase));
}

// op.d = predicate, op.b = parity, op.target = 1 for try_wait, which may suspend the lanes;
// op.first = 1 if relaxed.
Step Wait(Warp& warp, const Op& op) {
  uint32_t done = 0;
  uint64_t waits_for = 0;
  uint32_t waits_parity = 0;
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t address = AddressOf(warp, op, lane);
    const uint32_t parity = warp.Lanes<uint32_t>(op.b)[lane] & 1u;
    Mbarrier& barrier = MbarrierAt(warp, lane, address);
    if (PhaseDone(barrier, parity)) {
      done |= 1u << lane;
      ObservePhase(warp, lane, address, &barrier);
      warp.Note(address, barrier.phase - 1, 0);
      AcquirePhase(warp, lane, address, barrier, op.first == 1);
    } else {
      waits_for = address;
      warp.Note(address, barrier.phase, 0);
      waits_parity = parity;
    }
  });
  if (done != warp.exec && op.target == 1 && !warp.timed_out) {
    const Mbarrier& barrier = MbarrierAt(warp, 0, waits_for);
    return warp.Wait("mbarrier.try_wait on shared address " + std::to_string(waits_for & 0xffffff) +
                     " for parity " + std::to_string(waits_parity) + ": phase " +
                     std::to_string(barrier.phase) + " lacks " + std::to_string(barrier.pending) +
                     " of " + std::to_string(barrier.expected) + " arrivals and " +
                     std::to_string(barrier.transactions) + " bytes");
  }
  uint32_t& d = warp.Predicate(op.d);
  d = (d & ~warp.exec) | done;
  return Step::kNext;
}

// {.sem.scope}: whether it is relaxed instead of `usual`. Scopes are not told apart.
bool TakeRelaxed(Modifiers* modifiers, std::string_view usual) {
  const bool relaxed = modifiers->Take("relaxed");
  if (relaxed || modifiers->Take(usual)) modifiers->OneOf({"cta", "cluster"});
  return relaxed;
}

void DecodeWait(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers, Op* op) {
  modifiers->OneOf({"parity"});
  op->first = TakeRelaxed(modifiers, "acquire") ? 1 : 0;
  modifiers->OneOf({"shared", "shared::cta"});
  modifiers->OneOf({"b64"});
  modifiers->Done();
  const size_t count = instruction.operands.size();
  if (count != 3 && count != 4) decoder.Fail(instruction, "three or four operands are expected");
  op->run = Wait;
  op->d = decoder.PredicateDestination(instruction.operands[0]);
  decoder.Address(instruction.operands[1], 0, op);
  op->b = decoder.Source(instruction.operands[2], 4);
}

void DecodeMbarrier(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view what = modifiers.OneOf({"init", "arrive", "try_wait", "test_wait"});
  if (what == "try_wait" || what == "test_wait") {
    DecodeWait(decoder, instruction, &modifiers, op);
    op->target = what == "try_wait" ? 1 : 0;
    return;
  }
  if (what == "init") {
    modifiers.OneOf({"shared", "shared::cta"});
    modifiers.OneOf({"b64"});
    modifiers.Done();
    decoder.ExpectOperands(instruction, 2);
    op->run = Init;
    decoder.Address(instruction.operands[0], 0, op);
    op->b = decoder.Source(instruction.operands[1], 4);
    return;
  }
  const bool expects = modifiers.Take("expect_tx");
  op->first = TakeRelaxed(&modifiers, "release") ? 1 : 0;
  modifiers.OneOf({"shared", "shared::cta", "shared::cluster"});
  modifiers.OneOf({"b64"});
  modifiers.Done();
  const size_t count = instruction.operands.size();
  if (count < 2 || count > 3) decoder.Fail(instruction, "two or three operands are expected");
  if (instruction.operands[0].kind != OperandKind::kSink) {
    op->d = decoder.Destination(instruction.operands[0], 8);
  }
  decoder.Address(instruction.operands[1], 0, op);
  if (count > 2) op->b = decoder.Source(instruction.operands[2], 4);
  if (expects && op->b == kNoSlot) decoder.Fail(instruction, "expect_tx needs a byte count");
  op->run = expects ? ArriveExpectTx : Arrive;
}

}  // namespace

void RegisterMbarrier(InstructionTable* table) { (*table)["mbarrier"] = DecodeMbarrier; }

}  // namespace jax_fa4::emulator
