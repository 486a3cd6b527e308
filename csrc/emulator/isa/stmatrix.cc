// stmatrix (PTX ISA, "Warp Level Matrix Store Instruction").
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// Matrix i of 8x8 16-bit elements goes to the rows whose addresses lanes 8 i to 8 i + 7 give; lane
// t holds elements (t / 4, 2 (t % 4)) and the one to its right, or transposed, below it.
template <bool kTransposed>
Step Store(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  RaceDetector* races = warp.machine->races.get();
  Party party;
  if (races != nullptr) party = races->Generic(warp, true);
  for (uint32_t matrix = 0; matrix < op.count; ++matrix) {
    uint16_t elements[8][8];
    const uint32_t* values = warp.Lanes<uint32_t>(slots[matrix]);
    for (int lane = 0; lane < 32; ++lane) {
      for (int half = 0; half < 2; ++half) {
        const int row = lane / 4;
        const int column = 2 * (lane % 4) + half;
        const uint16_t value = static_cast<uint16_t>(values[lane] >> (16 * half));
        if (kTransposed) {
          elements[column][row] = value;
        } else {
          elements[row][column] = value;
        }
      }
    }
    for (int row = 0; row < 8; ++row) {
      const int lane = static_cast<int>(matrix) * 8 + row;
      const uint64_t base =
          op.small == 8 ? warp.Lanes<uint64_t>(op.a)[lane] : warp.Lanes<uint32_t>(op.a)[lane];
      const uint64_t address = base + static_cast<uint64_t>(op.immediate);
      std::memcpy(warp.machine->Shared(warp, lane, address, 16, true), elements[row], 16);
      if (races != nullptr) {
        races->VisitShared(&party, lane, warp.machine->CtaOf(warp, lane, address),
                           static_cast<uint32_t>(address & 0xffffff), 16);
      }
    }
  }
  return Step::kNext;
}

void DecodeStmatrix(Decoder& decoder, const Instruction& instruction, Op* op) {
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
  decoder.Address(instruction.operands[0], 0, op);
  if (decoder.Elements(instruction.operands[1], 4, false, op) !=
      static_cast<uint32_t>(count[1] - '0')) {
    decoder.Fail(instruction.operands[1], "not as many registers as matrices");
  }
  op->converged = true;
  op->run = transposed ? Store<true> : Store<false>;
}

}  // namespace

void RegisterStmatrix(InstructionTable* table) { (*table)["stmatrix"] = DecodeStmatrix; }

}  // namespace jax_fa4::emulator
