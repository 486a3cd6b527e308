// Warpgroup matrix products (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//
// Each of the four warps computes the 16 rows that are its own; nothing else of the warpgroup
// matters to it. Products of one warp take effect in order.
#include "emulator/isa/lanes.h"
#include "emulator/isa/wgmma_product.h"

namespace jax_fa4::emulator {
namespace {

OperandLayout ReadDescriptor(Warp& warp, uint64_t descriptor) {
  static constexpr uint32_t kSwizzleBits[] = {0, 3, 2, 1};
  OperandLayout layout;
  layout.start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  layout.leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  layout.stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  layout.bits = kSwizzleBits[descriptor >> 62];
  if ((descriptor >> 49 & 7) != 0) warp.Report("descriptor", "a base offset is not supported");
  return layout;
}

// Tells the race detector what this warp reads of shared memory: 16 bytes at a time.
void Watch(Warp& warp, const WgmmaOperands& operands) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Async(warp, false, races->LaneChannel(warp, ChannelKind::kProducts, 0),
                             warp.wgmma_groups + 1);
  const auto visit = [&](const OperandLayout& layout, const OperandShape& shape) {
    ForOperandRuns(layout, shape, [&](uint32_t address, uint32_t bytes) {
      races->VisitShared(&party, -1, *warp.cta, address, bytes);
    });
  };
  visit(operands.b, ShapeOfB(operands.shape));
  if (!operands.shape.a_in_registers) visit(operands.a, ShapeOfA(warp, operands.shape));
}

uint64_t QueueOf(const Warp& warp) {
  return (warp.cta->linear * 64 + static_cast<uint64_t>(warp.index)) << 1;
}

// op.immediate: the types of A and B, 4 bits each, and these.
enum : int64_t {
  kTransposeA = 1 << 8,
  kTransposeB = 1 << 9,
  kNegateA = 1 << 10,
  kNegateB = 1 << 11,
  kHalf = 1 << 12,
};

WgmmaShape ShapeOf(const Op& op) {
  WgmmaShape shape;
  shape.a_type = static_cast<ElementType>(op.immediate & 15);
  shape.b_type = static_cast<ElementType>(op.immediate >> 4 & 15);
  shape.half = (op.immediate & kHalf) != 0;
  shape.columns = static_cast<int>(op.count) * (shape.half ? 4 : 2);
  shape.a_in_registers = op.a == kNoSlot;
  shape.transpose_a = (op.immediate & kTransposeA) != 0;
  shape.transpose_b = (op.immediate & kTransposeB) != 0;
  shape.negate_a = (op.immediate & kNegateA) != 0;
  shape.negate_b = (op.immediate & kNegateB) != 0;
  return shape;
}

// op.first, op.count = accumulator; op.a = descriptor of A, or kNoSlot and op.target = first slot
// of A's registers; op.b = descriptor of B; op.c = predicate; op.immediate = shape.
Step Mma(Warp& warp, const Op& op) {
  WgmmaOperands operands;
  operands.op = &op;
  operands.shape = ShapeOf(op);
  const int first_lane = __builtin_ctz(warp.exec);
  operands.b = ReadDescriptor(warp, warp.Lanes<uint64_t>(op.b)[first_lane]);
  operands.accumulate = (warp.Predicate(op.c) >> first_lane & 1u) != 0;
  if (operands.shape.a_in_registers) {
    const Slot* slots = warp.machine->program.slots.data() + op.target;
    for (int i = 0; i < 4; ++i) {
      std::memcpy(&operands.registers[static_cast<size_t>(i) * 32], warp.Lanes<uint32_t>(slots[i]),
                  128);
    }
  } else {
    operands.a = ReadDescriptor(warp, warp.Lanes<uint64_t>(op.a)[first_lane]);
  }
  Watch(warp, operands);
  if (warp.registers != nullptr) {
    const OpRegisters& registers = warp.machine->program.op_registers[warp.group().pc];
    warp.registers->StartProduct(warp, registers, operands.accumulate);
  }
  ++warp.wgmma_open;
  const WgmmaShape& shape = operands.shape;
  warp.Note(0, warp.wgmma_groups + 1,
            static_cast<uint64_t>(kWgmmaWarpRows * shape.depth() * shape.columns));  // of its rows
  Warp* owner = &warp;
  warp.machine->Start(QueueOf(warp), [owner, operands] {
    ComputeWgmma(*owner, operands);
    // Products finish in order: the oldest committed group, or else the open one, has one less.
    for (uint32_t& group : owner->wgmma_committed) {
      if (group == 0) continue;
      --group;
      return;
    }
    --owner->wgmma_open;
  });
  return Step::kNext;
}

Step Commit(Warp& warp, const Op&) {
  warp.wgmma_committed.push_back(warp.wgmma_open);
  warp.wgmma_open = 0;
  ++warp.wgmma_groups;
  warp.Note(0, warp.wgmma_groups, 0);
  if (warp.registers != nullptr) warp.registers->CommitProducts();
  return Step::kNext;
}

Step WaitGroup(Warp& warp, const Op& op) {
  while (!warp.wgmma_committed.empty() && warp.wgmma_committed.front() == 0) {
    warp.wgmma_committed.pop_front();
  }
  if (static_cast<int64_t>(warp.wgmma_committed.size()) > op.immediate) {
    return warp.Wait("wgmma.wait_group: products are under way");
  }
  const uint32_t pending = static_cast<uint32_t>(op.immediate);
  warp.Note(0, warp.wgmma_groups - std::min(pending, warp.wgmma_groups), 0);
  if (warp.registers != nullptr) warp.registers->WaitProducts(pending);
  RaceDetector* races = warp.machine->races.get();
  if (races != nullptr && warp.wgmma_groups > pending) {
    races->Observe(warp, warp.exec, races->LaneChannel(warp, ChannelKind::kProducts, 0),
                   warp.wgmma_groups - pending);
  }
  return Step::kNext;
}

// Orders registers; memory needs fence.proxy.async (PTX ISA 9.7.15.7.1).
Step Fence(Warp& warp, const Op&) {
  if (warp.registers != nullptr) warp.registers->FenceProducts();
  return Step::kNext;
}

// "m64n128k16" -> 128 for a depth of 16; 0 if it is no such shape.
int Columns(std::string_view shape, int depth) {
  if (shape.rfind("m64n", 0) != 0) return 0;
  const size_t k = shape.find('k');
  if (k == std::string_view::npos || shape.substr(k + 1) != std::to_string(depth)) return 0;
  int columns = 0;
  for (char c : shape.substr(4, k - 4)) {
    if (c < '0' || c > '9' || columns > 256) return 0;
    columns = columns * 10 + (c - '0');
  }
  return columns >= 8 && columns <= 256 && columns % 8 == 0 ? columns : 0;
}

struct Types {
  ElementType a, b;
};

// The types of A and B: the same but for 8 bits.
Types TakeTypes(Modifiers* modifiers) {
  const std::string_view a = modifiers->OneOf({"bf16", "f16", "tf32", "e4m3", "e5m2"});
  if (a == "bf16" || a == "f16" || a == "tf32") {
    modifiers->OneOf({a});
    const ElementType type = a == "bf16"  ? ElementType::kBF16
                             : a == "f16" ? ElementType::kF16
                                          : ElementType::kTF32;
    return {type, type};
  }
  const std::string_view b = modifiers->OneOf({"e4m3", "e5m2"});
  return {a == "e4m3" ? ElementType::kE4M3 : ElementType::kE5M2,
          b == "e4m3" ? ElementType::kE4M3 : ElementType::kE5M2};
}

// An immediate -1 negates an operand, 1 does not.
bool Negates(Decoder& decoder, const Operand& operand) {
  const int64_t scale = static_cast<int64_t>(decoder.Immediate(operand));
  if (scale != 1 && scale != -1) decoder.Fail(operand, "1 or -1 is expected here");
  return scale == -1;
}

void DecodeMma(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers, Op* op) {
  modifiers->OneOf({"sync"});
  modifiers->OneOf({"aligned"});
  const std::string_view shape = modifiers->Next();
  const bool half = modifiers->OneOf({"f32", "f16"}) == "f16";
  const Types types = TakeTypes(modifiers);
  modifiers->Done();
  const int size = ElementBytes(types.a);
  const int columns = Columns(shape, kWgmmaRowBytes / size);
  if (columns == 0) decoder.Fail(instruction, "this shape is not supported");
  if (half && (types.a == ElementType::kBF16 || types.a == ElementType::kTF32)) {
    decoder.Fail(instruction, "these elements have no float16 accumulator");
  }
  const auto& operands = instruction.operands;
  const bool in_registers = operands.size() > 1 && operands[1].kind == OperandKind::kVector;
  // Only operands of 16 bits can be transposed, and of A only what is in shared memory.
  const size_t transposes = size != 2 ? 0 : in_registers ? 1 : 2;
  decoder.ExpectOperands(instruction, 6 + transposes);
  op->immediate = static_cast<int64_t>(types.a) | static_cast<int64_t>(types.b) << 4;
  if (half) op->immediate |= kHalf;
  if (in_registers) {
    if (decoder.Elements(operands[1], 4, false, op) != 4) {
      decoder.Fail(operands[1], "four registers are expected");
    }
    op->target = static_cast<int32_t>(op->first);
  } else {
    op->a = decoder.Source(operands[1], 8);
  }
  op->b = decoder.Source(operands[2], 8);
  op->c = decoder.PredicateSource(operands[3]);
  if (Negates(decoder, operands[4])) op->immediate |= kNegateA;
  if (Negates(decoder, operands[5])) op->immediate |= kNegateB;
  if (transposes == 2 && decoder.Immediate(operands[6]) != 0) op->immediate |= kTransposeA;
  if (transposes > 0 && decoder.Immediate(operands.back()) != 0) op->immediate |= kTransposeB;
  if (static_cast<int>(decoder.Elements(operands[0], 4, true, op)) * (half ? 4 : 2) != columns) {
    decoder.Fail(operands[0], "not as many registers as the shape has");
  }
  op->run = Mma;
}

void DecodeWgmma(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  op->converged = true;
  const std::string_view what =
      modifiers.OneOf({"mma_async", "fence", "commit_group", "wait_group"});
  if (what == "mma_async") {
    DecodeMma(decoder, instruction, &modifiers, op);
    return;
  }
  modifiers.OneOf({"sync"});
  modifiers.OneOf({"aligned"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, what == "wait_group" ? 1 : 0);
  if (what == "wait_group") {
    op->immediate = decoder.SmallImmediate(instruction.operands[0]);
  }
  op->run = what == "fence" ? Fence : what == "commit_group" ? Commit : WaitGroup;
}

}  // namespace

void RegisterWgmma(InstructionTable* table) { (*table)["wgmma"] = DecodeWgmma; }

}  // namespace jax_fa4::emulator
