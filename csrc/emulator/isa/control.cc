// Control flow, and instructions that give the machine hints (PTX ISA, "Control Flow
// Instructions", "Miscellaneous Instructions").
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

Step Bra(Warp& warp, const Op& op) {
  Branch(warp, warp.exec, op.target);
  return Step::kJump;
}

// The last warp of a CTA leaves no tensor memory allocated, and nothing under way.
void CheckLastExit(Warp& warp) {
  if (warp.alive != warp.exec) return;
  for (const auto& other : warp.cta->warps) {
    if (other.get() != &warp && other->alive != 0) return;
  }
  if (warp.cta->tensor.allocated_columns() != 0) {
    warp.Report("unfinished", "the CTA exits with " +
                                  std::to_string(warp.cta->tensor.allocated_columns()) +
                                  " columns of tensor memory allocated");
  }
  if (warp.machine->races != nullptr) warp.machine->races->CheckExit(warp);
}

Step Ret(Warp& warp, const Op&) {
  if (warp.wgmma_open != 0 || !warp.wgmma_committed.empty()) {
    warp.Report("unfinished", "exits with matrix products under way");
  }
  // The text says nothing of bulk stores under way when their CTA ends. Working kernels leave some:
  // shared memory lasts until they have read it.
  const bool may_leave_stores = warp.machine->options.level == Level::kHardware;
  for (const auto& [lane, groups] : warp.bulk) {
    if ((warp.exec >> lane & 1u) == 0 || may_leave_stores) continue;
    if (groups.open != 0) warp.Report("unfinished", "exits with an uncommitted bulk copy", lane);
    for (const auto& group : groups.committed) {
      if (group[0] != 0) {
        warp.Report("unfinished", "exits while a bulk copy still reads its shared memory", lane);
      }
    }
  }
  CheckLastExit(warp);
  return Step::kExit;
}

Step Nothing(Warp&, const Op&) { return Step::kNext; }

void DecodeBra(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.Take("uni");
  modifiers.Done();
  decoder.ExpectOperands(instruction, 1);
  op->run = Bra;
  op->target = decoder.Target(instruction.operands[0]);
}

void DecodeRet(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers(decoder, instruction).Done();
  decoder.ExpectOperands(instruction, 0);
  op->run = Ret;
}

void DecodeGriddepcontrol(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"wait", "launch_dependents"});
  modifiers.Done();
  op->run = Nothing;  // grids run one after the other
}

// prefetch.tensormap, prefetch{.space}.L1 and L2: hints.
void DecodePrefetch(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  if (!modifiers.Take("tensormap")) {
    modifiers.Take("global");
    modifiers.OneOf({"L1", "L2"});
  }
  modifiers.Done();
  decoder.ExpectOperands(instruction, 1);
  decoder.Address(instruction.operands[0], 8, op);
  op->run = Nothing;
}

}  // namespace

void RegisterControl(InstructionTable* table) {
  (*table)["bra"] = DecodeBra;
  (*table)["ret"] = DecodeRet;
  (*table)["exit"] = DecodeRet;
  (*table)["griddepcontrol"] = DecodeGriddepcontrol;
  (*table)["prefetch"] = DecodePrefetch;
}

}  // namespace jax_fa4::emulator
