// Bulk copies without a tensor map (PTX ISA, "cp.async.bulk", "cp.reduce.async.bulk").
#include "emulator/isa/copy.h"

#include <cmath>

#include "emulator/async/copy_groups.h"
#include "emulator/async/mbarriers.h"
#include "emulator/check/bulk_watch.h"
#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

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
    const uint64_t to = CopyAddress(warp, op, 0, lane);
    const uint64_t barrier = CopyAddress(warp, op, 2, lane);
    const uint64_t source = CopyAddress(warp, op, 1, lane);
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
    uint8_t* destination = bytes == 0 ? nullptr : ReserveShared(warp, lane, to, bytes);
    machine->Start(machine->NewQueue(), [=] {
      if (bytes != 0) {
        std::memmove(destination, from, bytes);
        MarkSharedWritten(cta, to, bytes);
      }
      LoadCompletes(machine, watched, *barrier_cta, offset);
      CompleteTransactions(machine, barrier_cta, offset, bytes);
    });
  });
  return Step::kNext;
}

// Of the manual's "the current implementation flushes subnormal inputs and results" an H100 does
// nothing; a NaN is canonical.
void AddFloats(uint8_t* to, const uint8_t* from, uint32_t bytes) {
  for (uint32_t at = 0; at < bytes; at += 4) {
    float sum, term;
    std::memcpy(&sum, to + at, 4);
    std::memcpy(&term, from + at, 4);
    sum += term;
    if (std::isnan(sum)) sum = FloatOf(0x7fffffffu);
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
    const uint64_t target = CopyAddress(warp, op, 0, lane), source = CopyAddress(warp, op, 1, lane);
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

}  // namespace

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
  AddCopyAddress(decoder, instruction.operands[0], destination == "global" ? 8 : 0, op);
  AddCopyAddress(decoder, instruction.operands[1], from_global ? 8 : 0, op);
  if (destination != "global") AddCopyAddress(decoder, instruction.operands[3], 0, op);
  op->b = decoder.Source(instruction.operands[2], 4);
}

}  // namespace jax_fa4::emulator
