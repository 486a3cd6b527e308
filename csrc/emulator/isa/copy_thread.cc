// cp.async: copies of 4 to 16 bytes a thread (PTX ISA, "cp.async").
#include "emulator/async/copy_groups.h"
#include "emulator/async/mbarriers.h"
#include "emulator/check/copy_watch.h"
#include "emulator/isa/copy.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/origin.h"

namespace jax_fa4::emulator {

void AddCopyAddress(Decoder& decoder, const Operand& operand, int bytes, Op* op) {
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

uint64_t CopyAddress(Warp& warp, const Op& op, int which, int lane) {
  const Slot* slots = warp.machine->program.slots.data() + op.first + 2 * which;
  const uint64_t base = (op.small >> which & 1) != 0 ? warp.Lanes<uint64_t>(slots[0])[lane]
                                                     : warp.Lanes<uint32_t>(slots[0])[lane];
  return base + warp.Lanes<uint64_t>(slots[1])[lane];
}

uint8_t* ReserveShared(Warp& warp, int lane, uint64_t address, uint32_t size) {
  uint8_t* bytes = warp.machine->Shared(warp, lane, address, size, true);
  std::memset(bytes, 0xff, size);
  Cta& cta = warp.machine->CtaOf(warp, lane, address);
  std::memset(cta.shared_initialised.data() + (address & 0xffffff), 0, size);
  return bytes;
}

void MarkSharedWritten(Cta* cta, uint64_t address, uint32_t size) {
  std::memset(cta->shared_initialised.data() + (address & 0xffffff), 1, size);
}

namespace {

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
    const uint64_t to = CopyAddress(warp, op, 0, lane);
    const uint64_t from = CopyAddress(warp, op, 1, lane);
    const uint32_t read = op.b == kNoSlot ? size : warp.Lanes<uint32_t>(op.b)[lane];
    if (read > size) {
      warp.Report("async-copy",
                  "reads " + std::to_string(read) + " bytes of " + std::to_string(size), lane);
    }
    if (from % size != 0) {
      warp.Report("misaligned", "the source is not aligned to the copy's size", lane);
    }
    if (read != 0) machine->Global(warp, lane, from, read, false);
    uint8_t* bytes = ReserveShared(warp, lane, to, size);
    Cta* cta = &machine->CtaOf(warp, lane, to);
    WatchCopy(warp, lane, from, read, *cta, static_cast<uint32_t>(to & 0xffffff), size);
    Warp* owner = &warp;
    const uint64_t group = JoinGroup(&warp.copies[lane]);
    warp.Note(0, group + 1, size);
    machine->Start(QueueOf(warp, lane), [=] {
      std::memset(bytes, 0, size);
      if (read != 0) std::memcpy(bytes, reinterpret_cast<const uint8_t*>(from), read);
      MarkSharedWritten(cta, to, size);
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
    const uint64_t barrier = CopyAddress(warp, op, 0, lane);
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

void DecodeCopy(Decoder& decoder, const Instruction& instruction, bool always_16,
                Modifiers* modifiers, Op* op) {
  modifiers->OneOf({"shared", "shared::cta"});
  modifiers->OneOf({"global"});
  const bool hint = modifiers->Take("L2::cache_hint");
  for (const char* prefetch : {"L2::64B", "L2::128B", "L2::256B"}) modifiers->Take(prefetch);
  modifiers->Done();
  const size_t given = instruction.operands.size() - (hint ? 1 : 0);
  if (given != 3 && given != 4) decoder.Fail(instruction, "three or four operands are expected");
  AddCopyAddress(decoder, instruction.operands[0], 0, op);
  AddCopyAddress(decoder, instruction.operands[1], 8, op);
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
    AddCopyAddress(decoder, instruction.operands[0], 0, op);
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

}  // namespace jax_fa4::emulator
