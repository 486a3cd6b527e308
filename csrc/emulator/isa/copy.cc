// Asynchronous copies without a tensor map (PTX ISA, "cp.async", "cp.async.bulk",
// "cp.reduce.async.bulk").
#include "emulator/isa/copy.h"

#include <cmath>

#include "emulator/async/copy_groups.h"
#include "emulator/async/mbarriers.h"
#include "emulator/check/bulk_watch.h"
#include "emulator/check/copy_watch.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/origin.h"

namespace jax_fa4::emulator {
namespace {

// The addresses of an instruction stand in Program::slots, each as a register's slot and that of
// a constant, its offset; bit i of op.small says that register i has 64 bits.
void AddAddress(Decoder& decoder, const Operand& operand, int bytes, Op* op) {
  Op address;
  decoder.Address(operand, bytes, &address);
  auto& slots = decoder.mutable_program()->slots;
  if (op->count == 0) op->first = static_cast<uint32_t>(slots.size());
  if (address.small == 8) op->small = static_cast<uint8_t>(op->small | 1u << op->count);
  const Slot offset = decoder.ConstantSlot(static_cast<uint64_t>(address.immediate), 8);
  slots.push_back(address.a);
  slots.push_back(offset);
  ++op->count;
}

uint64_t AddressAt(Warp& warp, const Op& op, int which, int lane) {
  const Slot* slots = warp.machine->program.slots.data() + op.first + 2 * which;
  const uint64_t base = (op.small >> which & 1) != 0 ? warp.Lanes<uint64_t>(slots[0])[lane]
                                                     : warp.Lanes<uint32_t>(slots[0])[lane];
  return base + warp.Lanes<uint64_t>(slots[1])[lane];
}

// `size` bytes of shared memory that hold nothing until an operation completes.
uint8_t* Reserve(Warp& warp, int lane, uint64_t address, uint32_t size) {
  uint8_t* bytes = warp.machine->Shared(warp, lane, address, size, true);
  std::memset(bytes, 0xff, size);
  Cta& cta = warp.machine->CtaOf(warp, lane, address);
  std::memset(cta.shared_initialised.data() + (address & 0xffffff), 0, size);
  return bytes;
}

void MarkWritten(Cta* cta, uint64_t address, uint32_t size) {
  std::memset(cta->shared_initialised.data() + (address & 0xffffff), 1, size);
}

// ---- cp.async: 4 to 16 bytes a thread

// A thread's cp.async take effect in order, so that an arrival can follow them.
uint64_t QueueOf(const Warp& warp, int lane) {
  const uint64_t thread = warp.cta->linear * 1024 + static_cast<uint64_t>(warp.index) * 32 +
                          static_cast<uint64_t>(lane);
  return (uint64_t{1} << 62 | thread) << 1;
}

// Addresses: destination, source. op.target = bytes; op.b = slot of the bytes that are read, the
// others being zero, or kNoSlot.
Step Copy(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  const uint32_t size = static_cast<uint32_t>(op.target);
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t to = AddressAt(warp, op, 0, lane);
    const uint64_t from = AddressAt(warp, op, 1, lane);
    const uint32_t read = op.b == kNoSlot ? size : warp.Lanes<uint32_t>(op.b)[lane];
    if (read > size) {
      warp.Report("async-copy",
                  "reads " + std::to_string(read) + " bytes of " + std::to_string(size), lane);
    }
    if (from % size != 0) {
      warp.Report("misaligned", "the source is not aligned to the copy's size", lane);
    }
    if (read != 0) machine->Global(warp, lane, from, read, false);
    uint8_t* bytes = Reserve(warp, lane, to, size);
    Cta* cta = &machine->CtaOf(warp, lane, to);
    WatchCopy(warp, lane, from, read, *cta, static_cast<uint32_t>(to & 0xffffff), size);
    Warp* owner = &warp;
    const uint64_t group = JoinGroup(&warp.copies[lane]);
    warp.Note(0, group + 1, size);
    machine->Start(QueueOf(warp, lane), [=] {
      std::memset(bytes, 0, size);
      if (read != 0) std::memcpy(bytes, reinterpret_cast<const uint8_t*>(from), read);
      MarkWritten(cta, to, size);
      LeaveGroup(&owner->copies[lane], group);
    });
  });
  return Step::kNext;
}

Step CommitCopies(Warp& warp, const Op&) {
  ForLanes(warp.exec, [&](int lane) {
    CommitOpenGroup(&warp.copies[lane]);
    WatchCopyCommit(warp, lane);
  });
  return Step::kNext;
}

// op.immediate groups may stay; op.small: none may, not even what is not committed.
Step WaitCopies(Warp& warp, const Op& op) {
  bool done = true;
  ForLanes(warp.exec, [&](int lane) {
    BulkGroups& groups = warp.copies[lane];
    done = AtMostPending(&groups, op.immediate) && done && (op.small == 0 || groups.open == 0);
  });
  if (!done) return warp.Wait("cp.async.wait_group: copies are under way");
  ForLanes(warp.exec, [&](int lane) {
    if (op.small != 0) {
      WatchCopyWaitAll(warp, lane);
    } else {
      WatchCopyWait(warp, lane, static_cast<uint32_t>(op.immediate));
    }
  });
  return Step::kNext;
}

// Address: the mbarrier. It arrives after the thread's copies up to here.
Step ArriveAfterCopies(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t barrier = AddressAt(warp, op, 0, lane);
    MbarrierAt(warp, lane, barrier);
    Machine* machine = warp.machine;
    Cta* cta = &machine->CtaOf(warp, lane, barrier);
    const uint32_t offset = static_cast<uint32_t>(barrier & 0xffffff);
    const Origin origin(warp, lane);
    const ProxyClocks known = CopiesReleased(warp, lane);
    machine->Start(QueueOf(warp, lane), [=] {
      const std::string wrong = ArriveFromEngine(machine, cta, offset, known);
      if (!wrong.empty()) origin.Report("mbarrier", wrong);
    });
  });
  return Step::kNext;
}

// ---- bulk copies

// op.b = slot of the bytes.
uint32_t BulkBytes(Warp& warp, const Op& op, int lane) {
  const uint32_t bytes = warp.Lanes<uint32_t>(op.b)[lane];
  if (bytes % 16 != 0) {
    warp.Report("bulk-copy", std::to_string(bytes) + " bytes is no multiple of 16", lane);
  }
  if (bytes > kSharedBytes) {
    warp.Report("bulk-copy", std::to_string(bytes) + " bytes are more than shared memory has",
                lane);
  }
  return bytes;
}

uint8_t* BulkPlace(Warp& warp, int lane, uint64_t address, uint32_t bytes, bool shared,
                   bool write) {
  if (bytes == 0) return nullptr;
  Machine* machine = warp.machine;
  if (shared) {
    if (address % 16 != 0) machine->Shared(warp, lane, address, 16, write);  // reports it
    return machine->Shared(warp, lane, address, bytes, write);
  }
  machine->Global(warp, lane, address, 16, write);
  return machine->Global(warp, lane, address, bytes, write);
}

// Addresses: destination, source, mbarrier.
template <bool kFromShared>
Step BulkLoad(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t to = AddressAt(warp, op, 0, lane);
    const uint64_t barrier = AddressAt(warp, op, 2, lane);
    const uint64_t source = AddressAt(warp, op, 1, lane);
    const uint32_t bytes = BulkBytes(warp, op, lane);
    warp.Note(barrier, MbarrierAt(warp, lane, barrier).phase, bytes);
    Cta* cta = &machine->CtaOf(warp, lane, to);
    Cta* barrier_cta = &machine->CtaOf(warp, lane, barrier);
    const uint32_t offset = static_cast<uint32_t>(barrier & 0xffffff);
    if (cta != barrier_cta) {
      warp.Report("bulk-copy", "the mbarrier is in another CTA than the destination", lane);
    }
    BulkPlace(warp, lane, to, bytes, true, true);
    WatchedLoad watched;
    if (bytes != 0) {
      watched = WatchLoad(warp, lane, *cta, static_cast<uint32_t>(to & 0xffffff), bytes,
                          *barrier_cta, offset);
    }
    const uint8_t* from = BulkPlace(warp, lane, source, bytes, kFromShared, false);
    if (bytes != 0 && kFromShared) {
      WatchLoadFromShared(warp, lane, machine->CtaOf(warp, lane, source),
                          static_cast<uint32_t>(source & 0xffffff), bytes, &watched);
    } else if (bytes != 0) {
      WatchLoadFromGlobal(warp, lane, source, bytes, &watched);
    }
    uint8_t* destination = bytes == 0 ? nullptr : Reserve(warp, lane, to, bytes);
    machine->Start(machine->NewQueue(), [=] {
      if (bytes != 0) {
        std::memmove(destination, from, bytes);
        MarkWritten(cta, to, bytes);
      }
      LoadCompletes(machine, watched, *barrier_cta, offset);
      CompleteTransactions(machine, barrier_cta, offset, bytes);
    });
  });
  return Step::kNext;
}

float Flush(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

// Reductions of float32 flush subnormal inputs and results.
void AddFloats(uint8_t* to, const uint8_t* from, uint32_t bytes) {
  for (uint32_t at = 0; at < bytes; at += 4) {
    float sum, term;
    std::memcpy(&sum, to + at, 4);
    std::memcpy(&term, from + at, 4);
    sum = Flush(Flush(sum) + Flush(term));
    std::memcpy(to + at, &sum, 4);
  }
}

void CopyBytes(uint8_t* to, const uint8_t* from, uint32_t bytes) { std::memcpy(to, from, bytes); }

// Addresses: destination, source. Joins the thread's open bulk group.
template <void (*kApply)(uint8_t*, const uint8_t*, uint32_t)>
Step BulkStore(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(warp.exec, [&](int lane) {
    const uint32_t bytes = BulkBytes(warp, op, lane);
    const uint64_t target = AddressAt(warp, op, 0, lane), source = AddressAt(warp, op, 1, lane);
    const uint64_t group = JoinGroup(&warp.bulk[lane]);
    warp.Note(0, group + 1, bytes);
    const uint8_t* from = BulkPlace(warp, lane, source, bytes, true, false);
    const EntityId writes =
        bytes == 0 ? 0
                   : WatchStore(warp, lane, machine->CtaOf(warp, lane, source),
                                static_cast<uint32_t>(source & 0xffffff), bytes, group + 1);
    uint8_t* to = BulkPlace(warp, lane, target, bytes, false, true);
    if (bytes != 0) WatchStoreTo(warp, lane, target, bytes, kApply == AddFloats, writes, group + 1);
    Warp* owner = &warp;
    machine->Start(machine->NewQueue(), [=] {
      if (bytes != 0) kApply(to, from, bytes);
      LeaveGroup(&owner->bulk[lane], group);
    });
  });
  return Step::kNext;
}

// The cache policy, where there is one, is a hint.
void ExpectWithHint(Decoder& decoder, const Instruction& instruction, size_t count, bool hint) {
  decoder.ExpectOperands(instruction, count + (hint ? 1 : 0));
}

void DecodeCopy(Decoder& decoder, const Instruction& instruction, bool always_16,
                Modifiers* modifiers, Op* op) {
  modifiers->OneOf({"shared", "shared::cta"});
  modifiers->OneOf({"global"});
  const bool hint = modifiers->Take("L2::cache_hint");
  for (const char* prefetch : {"L2::64B", "L2::128B", "L2::256B"}) modifiers->Take(prefetch);
  modifiers->Done();
  const size_t given = instruction.operands.size() - (hint ? 1 : 0);
  if (given != 3 && given != 4) decoder.Fail(instruction, "three or four operands are expected");
  AddAddress(decoder, instruction.operands[0], 0, op);
  AddAddress(decoder, instruction.operands[1], 8, op);
  op->target = static_cast<int32_t>(decoder.SmallImmediate(instruction.operands[2]));
  if (op->target != 16 && (always_16 || (op->target != 4 && op->target != 8))) {
    decoder.Fail(instruction.operands[2], "copies of this size are not supported");
  }
  if (given == 4) op->b = decoder.Source(instruction.operands[3], 4);
  op->run = Copy;
}

}  // namespace

void DecodeAsyncCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op) {
  const std::string_view what =
      modifiers->OneOf({"ca", "cg", "commit_group", "wait_group", "wait_all", "mbarrier"});
  if (what == "ca" || what == "cg") {
    DecodeCopy(decoder, instruction, what == "cg", modifiers, op);
    return;
  }
  if (what == "mbarrier") {
    modifiers->OneOf({"arrive"});
    modifiers->OneOf({"noinc"});
    modifiers->OneOf({"shared", "shared::cta"});
    modifiers->OneOf({"b64"});
    decoder.ExpectOperands(instruction, 1);
    AddAddress(decoder, instruction.operands[0], 0, op);
    op->run = ArriveAfterCopies;
  } else if (what == "wait_group") {
    decoder.ExpectOperands(instruction, 1);
    op->immediate = decoder.SmallImmediate(instruction.operands[0]);
    op->run = WaitCopies;
  } else {
    decoder.ExpectOperands(instruction, 0);
    op->small = what == "wait_all" ? 1 : 0;
    op->run = what == "wait_all" ? WaitCopies : CommitCopies;
  }
  modifiers->Done();
}

void DecodeBulkCopy(Decoder& decoder, const Instruction& instruction, std::string_view destination,
                    Modifiers* modifiers, Op* op) {
  if (destination == "global") {
    modifiers->OneOf({"shared::cta"});
    modifiers->OneOf({"bulk_group"});
  } else {
    const bool from_shared = modifiers->OneOf({"global", "shared::cta"}) == "shared::cta";
    modifiers->OneOf({"mbarrier::complete_tx::bytes"});
    op->run = from_shared ? BulkLoad<true> : BulkLoad<false>;
  }
  const bool hint = modifiers->Take("L2::cache_hint");
  if (destination == "global") {
    const bool adds = instruction.opcode[1] == "reduce";
    if (adds) {
      modifiers->OneOf({"add"});
      modifiers->OneOf({"f32"});
    }
    op->run = adds ? BulkStore<AddFloats> : BulkStore<CopyBytes>;
  }
  modifiers->Done();
  ExpectWithHint(decoder, instruction, destination == "global" ? 3 : 4, hint);
  const bool from_global = op->run == Handler(BulkLoad<false>);
  AddAddress(decoder, instruction.operands[0], destination == "global" ? 8 : 0, op);
  AddAddress(decoder, instruction.operands[1], from_global ? 8 : 0, op);
  if (destination != "global") AddAddress(decoder, instruction.operands[3], 0, op);
  op->b = decoder.Source(instruction.operands[2], 4);
}

}  // namespace jax_fa4::emulator
