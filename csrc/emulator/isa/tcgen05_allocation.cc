// tcgen05.alloc, dealloc, relinquish_alloc_permit (PTX ISA, "Tensor Memory Allocation and
// Management Instructions").
#include <utility>

#include "emulator/check/tensor_watch.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/tcgen05.h"

namespace jax_fa4::emulator {
namespace {

uint32_t ColumnCount(Warp& warp, Slot slot) {
  const uint32_t columns = static_cast<uint32_t>(UniformValue(warp, slot, 4, "column counts"));
  if (columns < kAllocationUnit || columns > kTensorColumns || (columns & (columns - 1)) != 0) {
    warp.Report("tensor-memory",
                std::to_string(columns) + " columns; a power of two from 32 to 512 is allowed");
  }
  return columns;
}

// op.a + op.immediate = shared address, op.b = columns, op.target = CTAs of the group.
Step Alloc(Warp& warp, const Op& op) {
  TensorMemory& memory = warp.cta->tensor;
  const uint32_t columns = ColumnCount(warp, op.b);
  CheckCtaGroup(warp, op.target);
  if (memory.relinquished) {
    warp.Report("tensor-memory", "an allocation after relinquish_alloc_permit");
  }
  if (columns > memory.last_size) {
    warp.Report("tensor-memory", std::to_string(columns) + " columns after an allocation of " +
                                     std::to_string(memory.last_size) + ": sizes must not grow");
  }
  int first = -1;
  if (op.target == 1) {
    first = memory.Allocate(columns);
  } else if (memory.granted >= 0) {
    first = std::exchange(memory.granted, -1);
  } else {
    TensorMemory& peer = PeerCta(warp).tensor;
    memory.requested = columns;
    if (peer.requested != 0 && peer.requested != columns) {
      warp.Report("tensor-memory", "the CTAs of a pair ask for " + std::to_string(columns) +
                                       " and " + std::to_string(peer.requested) + " columns");
    }
    if (peer.requested == columns) first = memory.FindRoom(columns, &peer);
    if (first >= 0) {
      memory.Take(static_cast<uint32_t>(first), columns);
      peer.Take(static_cast<uint32_t>(first), columns);
      memory.requested = peer.requested = 0;
      peer.granted = first;
      ++warp.machine->version;
    }
  }
  if (first < 0) {
    return warp.Wait("tcgen05.alloc: waits for " + std::to_string(columns) + " columns; " +
                     std::to_string(memory.allocated_columns()) + " of 512 are taken");
  }
  memory.last_size = columns;
  const uint64_t address =
      UniformValue(warp, op.a, op.small, "addresses") + static_cast<uint64_t>(op.immediate);
  const uint32_t result = static_cast<uint32_t>(first);
  std::memcpy(warp.machine->Shared(warp, -1, address, 4, true), &result, 4);
  WatchAllocation(warp, warp.machine->CtaOf(warp, -1, address),
                  static_cast<uint32_t>(address & 0xffffff));
  return Step::kNext;
}

// The columns are free: nobody may still use them.
void Free(Warp& warp, Cta* cta, uint32_t first, uint32_t columns) {
  cta->tensor.Free(first, columns);
  ++warp.machine->version;
}

// Both CTAs of a pair free their columns together; who comes first waits (PTX ISA 9.7.16.7.1: "may
// block"), and must know the accesses to both memories to be done (9.7.16.5).
Step FreePair(Warp& warp, uint32_t first, uint32_t columns) {
  TensorMemory& memory = warp.cta->tensor;
  Cta& peer = PeerCta(warp);
  if (peer.tensor.freeing == columns) {
    Free(warp, warp.cta, first, columns);
    Free(warp, &peer, first, columns);
    peer.tensor.freeing = 0;
    peer.tensor.freed = true;
    return Step::kNext;
  }
  memory.freeing = columns;
  return warp.Wait("tcgen05.dealloc: waits for the pair's other CTA to free its columns");
}

// op.a = address, op.b = columns, op.target = CTAs of the group.
Step Dealloc(Warp& warp, const Op& op) {
  const uint32_t address = static_cast<uint32_t>(UniformValue(warp, op.a, 4, "addresses"));
  const uint32_t columns = ColumnCount(warp, op.b);
  const uint32_t first = TensorColumn(address);
  CheckCtaGroup(warp, op.target);
  if (std::exchange(warp.cta->tensor.freed, false)) return Step::kNext;  // by the peer
  const std::string wrong = TensorLane(address) != 0 ? "an address with a lane"
                                                     : warp.cta->tensor.CheckFree(first, columns);
  if (!wrong.empty()) warp.Report("tensor-memory", "dealloc of " + wrong);
  RaceDetector* races = warp.machine->races.get();
  if (races != nullptr) {
    races->CheckFreeTensor(warp, *warp.cta, first, columns);
    if (op.target == 2) races->CheckFreeTensor(warp, PeerCta(warp), first, columns);
  }
  if (op.target == 2) return FreePair(warp, first, columns);
  Free(warp, warp.cta, first, columns);
  return Step::kNext;
}

Step Relinquish(Warp& warp, const Op& op) {
  CheckCtaGroup(warp, op.target);
  warp.cta->tensor.relinquished = true;
  return Step::kNext;
}

}  // namespace

void DecodeTensorAllocation(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                            std::string_view what, Op* op) {
  op->target = TakeCtaGroup(modifiers);
  modifiers->OneOf({"sync"});
  modifiers->OneOf({"aligned"});
  op->converged = true;
  if (what == "relinquish_alloc_permit") {
    modifiers->Done();
    decoder.ExpectOperands(instruction, 0);
    op->run = Relinquish;
    return;
  }
  if (what == "alloc") modifiers->OneOf({"shared::cta"});
  modifiers->OneOf({"b32"});
  modifiers->Done();
  decoder.ExpectOperands(instruction, 2);
  op->b = decoder.Source(instruction.operands[1], 4);
  if (what == "alloc") {
    decoder.Address(instruction.operands[0], 0, op);
    op->run = Alloc;
  } else {
    op->a = decoder.Source(instruction.operands[0], 4);
    op->run = Dealloc;
  }
}

}  // namespace jax_fa4::emulator
