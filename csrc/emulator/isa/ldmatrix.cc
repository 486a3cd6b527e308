// ldmatrix (PTX ISA, "Warp Level Matrix Load Instruction").
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// Matrix i of 8x8 16-bit elements has the rows whose addresses lanes 8 i to 8 i + 7 give; lane t
// gets elements (t / 4, 2 (t % 4)) and the one to its right, or transposed, below it.
template <bool kTransposed>
Step Load(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  RaceDetector* races = warp.machine->races.get();
  Party party;
  if (races != nullptr) party = races->Generic(warp, false);
  // Read whole before anything is written: a register may hold an address and take a fragment.
  uint16_t elements[4][8][8];
  for (uint32_t matrix = 0; matrix < op.count; ++matrix) {
    for (int row = 0; row < 8; ++row) {
      const int lane = static_cast<int>(matrix) * 8 + row;
      const uint64_t base =
          op.small == 8 ? warp.Lanes<uint64_t>(op.a)[lane] : warp.Lanes<uint32_t>(op.a)[lane];
      const uint64_t address = base + static_cast<uint64_t>(op.immediate);
      std::memcpy(elements[matrix][row], warp.machine->Shared(warp, lane, address, 16, false), 16);
      if (races != nullptr) {
        races->VisitShared(&party, lane, warp.machine->CtaOf(warp, lane, address),
                           static_cast<uint32_t>(address & 0xffffff), 16);
      }
    }
  }
  for (uint32_t matrix = 0; matrix < op.count; ++matrix) {
    uint32_t* values = warp.Lanes<uint32_t>(slots[matrix]);
    const auto& from = elements[matrix];
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4, column = 2 * (lane % 4);
      const uint32_t low = kTransposed ? from[column][row] : from[row][column];
      const uint32_t high = kTransposed ? from[column + 1][row] : from[row][column + 1];
      values[lane] = high << 16 | low;
    }
  }
  return Step::kNext;
}

void DecodeLdmatrix(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"sync"});
  modifiers.OneOf({"aligned"});
  modifiers.OneOf({"m8n8"});
  const std::string_view count = modifiers.OneOf({"x1", "x2", "x4"});
  const bool transposed = modifiers.Take("trans");
  modifiers.OneOf({"shared", "shared::cta"});
  modifiers.OneOf({"b16"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 2);
  decoder.Address(instruction.operands[1], 0, op);
  if (decoder.Elements(instruction.operands[0], 4, true, op) !=
      static_cast<uint32_t>(count[1] - '0')) {
    decoder.Fail(instruction.operands[0], "not as many registers as matrices");
  }
  op->converged = true;
  op->run = transposed ? Load<true> : Load<false>;
}

}  // namespace

void RegisterLdmatrix(InstructionTable* table) { (*table)["ldmatrix"] = DecodeLdmatrix; }

}  // namespace jax_fa4::emulator
