// mov, selp, packing and unpacking of vectors (PTX ISA, "mov", "selp").
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

template <typename Lane>
Step Move(Warp& warp, const Op& op) {
  Lane* d = warp.Lanes<Lane>(op.d);
  const Lane* a = warp.Lanes<Lane>(op.a);
  ForLanes(warp.exec, [&](int lane) { d[lane] = a[lane]; });
  return Step::kNext;
}

struct Wide {
  uint64_t low, high;
};

Step MovePredicate(Warp& warp, const Op& op) {
  uint32_t& d = warp.Predicate(op.d);
  d = (d & ~warp.exec) | (warp.Predicate(op.a) & warp.exec);
  return Step::kNext;
}

// d = {slots...}, low element first; op.small = bits of an element, op.immediate = bytes of d.
Step Pack(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  uint8_t* d = warp.Lanes<uint8_t>(op.d);
  const uint32_t bytes = op.small / 8;
  const uint32_t lane_bytes = bytes < 4 ? 4 : bytes;
  const size_t stride = op.immediate < 4 ? 4 : static_cast<size_t>(op.immediate);
  ForLanes(warp.exec, [&](int lane) {
    uint8_t value[16] = {};
    for (uint32_t i = 0; i < op.count; ++i) {
      std::memcpy(value + i * bytes, warp.Lanes<uint8_t>(slots[i]) + lane * lane_bytes, bytes);
    }
    std::memcpy(d + static_cast<size_t>(lane) * stride, value, stride);
  });
  return Step::kNext;
}

Step Unpack(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  const uint8_t* a = warp.Lanes<uint8_t>(op.a);
  const uint32_t bytes = op.small / 8;
  const uint32_t lane_bytes = bytes < 4 ? 4 : bytes;
  const size_t stride = op.immediate < 4 ? 4 : static_cast<size_t>(op.immediate);
  ForLanes(warp.exec, [&](int lane) {
    uint8_t value[16];
    std::memcpy(value, a + static_cast<size_t>(lane) * stride, stride);
    for (uint32_t i = 0; i < op.count; ++i) {
      uint8_t* d = warp.Lanes<uint8_t>(slots[i]) + lane * lane_bytes;
      std::memset(d, 0, lane_bytes);
      std::memcpy(d, value + i * bytes, bytes);
    }
  });
  return Step::kNext;
}

void DecodeVector(Decoder& decoder, const Instruction& instruction, int bytes, Op* op) {
  const bool packs = instruction.operands[1].kind == OperandKind::kVector;
  const Operand& vector = instruction.operands[packs ? 1 : 0];
  if (vector.elements.empty() || bytes % static_cast<int>(vector.elements.size()) != 0) {
    decoder.Fail(vector, "a vector that does not divide the type");
  }
  const int element = bytes / static_cast<int>(vector.elements.size());
  op->small = static_cast<uint8_t>(8 * element);
  op->immediate = bytes;
  decoder.Elements(vector, element < 4 ? 4 : element, !packs, op);
  op->run = packs ? Pack : Unpack;
  if (packs) {
    op->d = decoder.Destination(instruction.operands[0], bytes);
  } else {
    op->a = decoder.Source(instruction.operands[1], bytes);
  }
}

void DecodeMov(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  decoder.ExpectOperands(instruction, 2);
  if (type == "pred") {
    op->run = MovePredicate;
    op->d = decoder.PredicateDestination(instruction.operands[0]);
    op->a = decoder.PredicateSource(instruction.operands[1]);
    return;
  }
  const int bytes = LaneBytes(type);
  if (bytes == 0) decoder.Fail(instruction, "unknown type '." + std::string(type) + "'");
  if (instruction.operands[0].kind == OperandKind::kVector ||
      instruction.operands[1].kind == OperandKind::kVector) {
    DecodeVector(decoder, instruction, MemoryBytes(type), op);
    return;
  }
  op->run = bytes == 4   ? Handler(Move<uint32_t>)
            : bytes == 8 ? Handler(Move<uint64_t>)
                         : Handler(Move<Wide>);
  op->d = decoder.Destination(instruction.operands[0], bytes);
  op->a = decoder.Source(instruction.operands[1], bytes);
}

template <typename Lane>
Step Select(Warp& warp, const Op& op) {
  Lane* d = warp.Lanes<Lane>(op.d);
  const Lane* a = warp.Lanes<Lane>(op.a);
  const Lane* b = warp.Lanes<Lane>(op.b);
  const uint32_t p = warp.Predicate(op.c);
  ForLanes(warp.exec, [&](int lane) { d[lane] = p >> lane & 1u ? a[lane] : b[lane]; });
  return Step::kNext;
}

void DecodeSelp(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  decoder.ExpectOperands(instruction, 4);
  const int bytes = LaneBytes(type);
  if (bytes != 4 && bytes != 8) decoder.Fail(instruction, "this type is not supported");
  op->run = bytes == 4 ? Handler(Select<uint32_t>) : Handler(Select<uint64_t>);
  op->d = decoder.Destination(instruction.operands[0], bytes);
  op->a = decoder.Source(instruction.operands[1], bytes);
  op->b = decoder.Source(instruction.operands[2], bytes);
  op->c = decoder.PredicateSource(instruction.operands[3]);
}

}  // namespace

void RegisterMove(InstructionTable* table) {
  (*table)["mov"] = DecodeMov;
  (*table)["selp"] = DecodeSelp;
}

}  // namespace jax_fa4::emulator
