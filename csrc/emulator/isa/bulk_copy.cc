// cp.async.bulk without a tensor map, cp.reduce.async.bulk, and bulk groups (PTX ISA,
// "cp.async.bulk", "cp.reduce.async.bulk", "cp.async.bulk.commit_group").
#include <cmath>

#include "emulator/async/mbarriers.h"
#include "emulator/isa/bulk.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// The byte count, a multiple of 16 as both addresses are.
uint32_t CheckedSize(Warp& warp, const Op& op, int lane, uint64_t to, uint64_t from) {
  const uint32_t bytes = warp.Lanes<uint32_t>(op.c)[lane];
  if (bytes % 16 != 0 || to % 16 != 0 || from % 16 != 0) {
    warp.Report("misaligned",
                "a bulk copy of " + std::to_string(bytes) +
                    " bytes whose size and addresses are not all multiples of 16",
                lane);
  }
  return bytes;
}

struct Operands {
  uint64_t to, from;
};

// op.d + op.target = destination, op.a + op.immediate = source, op.c = bytes; op.small = bytes of
// d and of a, 4 bits each.
Operands OperandsOf(Warp& warp, const Op& op, int lane) {
  return {AddressValue(warp, op.d, op.small & 15, lane) + static_cast<uint64_t>(int64_t{op.target}),
          AddressValue(warp, op.a, op.small >> 4, lane) + static_cast<uint64_t>(op.immediate)};
}

// To shared memory, from global memory or from another CTA's; the slots hold
// the mbarrier, of op.count bytes, and an offset.
template <bool kFromGlobal>
Step Load(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(warp.exec, [&](int lane) {
    const Operands at = OperandsOf(warp, op, lane);
    const uint32_t bytes = CheckedSize(warp, op, lane, at.to, at.from);
    const Slot* slots = machine->program.slots.data() + op.first;
    const uint64_t barrier = AddressValue(warp, slots[0], static_cast<int>(op.count), lane) +
                             warp.Lanes<uint64_t>(slots[1])[lane];
    if (bytes == 0) return;
    const uint8_t* source = kFromGlobal ? machine->Global(warp, lane, at.from, bytes, false)
                                        : machine->Shared(warp, lane, at.from, bytes, false);
    uint8_t* to = machine->Shared(warp, lane, at.to, bytes, true);
    Cta* cta = &machine->CtaOf(warp, lane, at.to);
    MbarrierAt(warp, lane, barrier);
    if (barrier >> 24 != at.to >> 24) {
      warp.Report("mbarrier", "a bulk copy signals an mbarrier of another CTA than it writes to",
                  lane);
    }
    const uint32_t begin = static_cast<uint32_t>(at.to & 0xffffff);
    std::memset(cta->shared_initialised.data() + begin, 0, bytes);
    machine->Start(machine->NewQueue(), [=] {
      std::memcpy(to, source, bytes);
      std::memset(cta->shared_initialised.data() + begin, 1, bytes);
      CompleteTransactions(machine, cta, static_cast<uint32_t>(barrier & 0xffffff), bytes);
    });
  });
  return Step::kNext;
}

float Flush(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

// Every sum is rounded to nearest; subnormal numbers become zeros on both sides.
void AddFloats(uint8_t* to, const uint8_t* from, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; i += 4) {
    float sum, term;
    std::memcpy(&sum, to + i, 4);
    std::memcpy(&term, from + i, 4);
    sum = Flush(Flush(sum) + Flush(term));
    std::memcpy(to + i, &sum, 4);
  }
}

// From shared to global memory.
template <bool kAdds>
Step Store(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(warp.exec, [&](int lane) {
    const Operands at = OperandsOf(warp, op, lane);
    const uint32_t bytes = CheckedSize(warp, op, lane, at.to, at.from);
    if (bytes == 0) return;
    uint8_t* to = machine->Global(warp, lane, at.to, bytes, true);
    const uint8_t* from = machine->Shared(warp, lane, at.from, bytes, false);
    BulkGroups* groups = &warp.bulk[lane];
    const uint64_t group = JoinGroup(groups);
    machine->Start(machine->NewQueue(), [=] {
      if (kAdds) {
        AddFloats(to, from, bytes);
      } else {
        std::memcpy(to, from, bytes);
      }
      LeaveGroup(groups, group);
    });
  });
  return Step::kNext;
}

Step Commit(Warp& warp, const Op&) {
  ForLanes(warp.exec, [&](int lane) { CommitGroup(&warp.bulk[lane]); });
  return Step::kNext;
}

// Waits until at most op.immediate groups are unfinished; op.small: only their reads count.
Step WaitGroup(Warp& warp, const Op& op) {
  bool done = true;
  ForLanes(warp.exec, [&](int lane) {
    const auto found = warp.bulk.find(lane);
    done = done &&
           (found == warp.bulk.end() || GroupsDone(found->second, op.immediate, op.small != 0));
  });
  if (!done) return warp.Wait("cp.async.bulk.wait_group: copies are under way");
  ForLanes(warp.exec, [&](int lane) {
    const auto found = warp.bulk.find(lane);
    if (found != warp.bulk.end()) ForgetDoneGroups(&found->second);
  });
  return Step::kNext;
}

// The two addresses and the size.
void DecodeOperands(Decoder& decoder, const Instruction& instruction, bool to_global,
                    bool from_global, Op* op) {
  Op to, from;
  decoder.Address(instruction.operands[0], to_global ? 8 : 0, &to);
  decoder.Address(instruction.operands[1], from_global ? 8 : 0, &from);
  op->d = to.a;
  op->target = static_cast<int32_t>(to.immediate);
  op->a = from.a;
  op->immediate = from.immediate;
  op->small = static_cast<uint8_t>(to.small | from.small << 4);
  op->c = decoder.Source(instruction.operands[2], 4);
}

void DecodeLoad(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers, Op* op) {
  const bool global = modifiers->OneOf({"global", "shared::cta"}) == "global";
  modifiers->OneOf({"mbarrier::complete_tx::bytes"});
  const bool hint = global && modifiers->Take("L2::cache_hint");
  modifiers->Done();
  decoder.ExpectOperands(instruction, hint ? 5 : 4);
  DecodeOperands(decoder, instruction, false, global, op);
  Op barrier;
  decoder.Address(instruction.operands[3], 0, &barrier);
  op->first = static_cast<uint32_t>(decoder.program().slots.size());
  op->count = barrier.small;
  decoder.mutable_program()->slots.push_back(barrier.a);
  decoder.mutable_program()->slots.push_back(
      decoder.ConstantSlot(static_cast<uint64_t>(barrier.immediate), 8));
  op->run = global ? Load<true> : Load<false>;
}

void DecodeStore(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers, bool adds,
                 Op* op) {
  modifiers->OneOf({"shared::cta"});
  modifiers->OneOf({"bulk_group"});
  const bool hint = modifiers->Take("L2::cache_hint");
  if (adds) {
    modifiers->OneOf({"add"});
    modifiers->OneOf({"f32"});
  }
  modifiers->Done();
  decoder.ExpectOperands(instruction, hint ? 4 : 3);
  DecodeOperands(decoder, instruction, true, false, op);
  op->run = adds ? Store<true> : Store<false>;
}

void DecodeCp(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  if (modifiers.Take("reduce")) {
    modifiers.OneOf({"async"});
    modifiers.OneOf({"bulk"});
    modifiers.OneOf({"global"});
    return DecodeStore(decoder, instruction, &modifiers, true, op);
  }
  modifiers.OneOf({"async"});
  if (!modifiers.Take("bulk")) return DecodeAsyncCopy(decoder, instruction, &modifiers, op);
  const std::string_view what = modifiers.OneOf(
      {"tensor", "commit_group", "wait_group", "shared::cluster", "shared::cta", "global"});
  if (what == "tensor") return DecodeTensorCopy(decoder, instruction, &modifiers, op);
  if (what == "global") return DecodeStore(decoder, instruction, &modifiers, false, op);
  if (what == "shared::cluster" || what == "shared::cta") {
    return DecodeLoad(decoder, instruction, &modifiers, op);
  }
  if (what == "commit_group") {
    modifiers.Done();
    decoder.ExpectOperands(instruction, 0);
    op->run = Commit;
    return;
  }
  op->small = modifiers.Take("read") ? 1 : 0;
  modifiers.Done();
  decoder.ExpectOperands(instruction, 1);
  op->immediate = static_cast<int64_t>(decoder.Immediate(instruction.operands[0]));
  op->run = WaitGroup;
}

}  // namespace

uint64_t JoinGroup(BulkGroups* groups) {
  ++groups->open;
  return groups->first_group + groups->committed.size();
}

void LeaveGroup(BulkGroups* groups, uint64_t group) {
  if (group < groups->first_group + groups->committed.size()) {
    auto& counts = groups->committed[group - groups->first_group];
    --counts[0];
    --counts[1];
  } else {
    --groups->open;  // it finished before its group was committed
  }
}

void CommitGroup(BulkGroups* groups) {
  groups->committed.push_back({groups->open, groups->open});
  groups->open = 0;
}

bool GroupsDone(const BulkGroups& groups, int64_t allowed, bool reads_only) {
  const int64_t must = static_cast<int64_t>(groups.committed.size()) - allowed;
  for (int64_t i = 0; i < must; ++i) {
    if (groups.committed[static_cast<size_t>(i)][reads_only ? 0 : 1] != 0) return false;
  }
  return true;
}

void ForgetDoneGroups(BulkGroups* groups) {
  while (!groups->committed.empty() && groups->committed.front()[1] == 0) {
    groups->committed.pop_front();
    ++groups->first_group;
  }
}

void RegisterBulk(InstructionTable* table) { (*table)["cp"] = DecodeCp; }

}  // namespace jax_fa4::emulator
