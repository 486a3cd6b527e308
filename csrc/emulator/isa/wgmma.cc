// Warpgroup matrix products (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//
// Each of the four warps computes the 16 rows that are its own; nothing else of the warpgroup
// matters to it. Products of one warp take effect in order.
#include <algorithm>
#include <memory>

#include "emulator/async/matrix_operand.h"
#include "emulator/async/tensor_core.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

constexpr int kDepth = 16;
constexpr int kWarpRows = 16;
constexpr int kMaxColumns = 256;

struct Shape {
  ElementType type;
  int columns;
  bool a_in_registers;
  bool transpose_a, transpose_b;
};

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

OperandShape ShapeOfA(const Warp& warp, const Shape& shape) {
  return {kWarpRows, kDepth, 2, shape.transpose_a, warp.index % 4 * kWarpRows};
}

OperandShape ShapeOfB(const Shape& shape) { return {shape.columns, kDepth, 2, shape.transpose_b}; }

// Writes element (row, k) to out[row * row_step + k * depth_step].
void ReadMatrix(Warp& warp, const OperandLayout& layout, const OperandShape& shape, int row_step,
                int depth_step, uint16_t* out) {
  const uint64_t rank = uint64_t{warp.cta->rank} << 24;
  const int step = shape.transposed ? row_step : depth_step;
  ForOperandChunks(layout, shape, [&](uint32_t address, int row, int k, int count) {
    const uint8_t* from = warp.machine->Shared(warp, -1, rank | address, kOperandChunk, false);
    WidenChunk(from, count, 2, step, out + row * row_step + k * depth_step);
  });
}

// This warp's 16 rows of A: from registers, or from shared memory.
void LoadA(Warp& warp, const Shape& shape, const OperandLayout& layout, const uint32_t* registers,
           Unpacked* out) {
  uint16_t bits[kWarpRows * kDepth];
  if (shape.a_in_registers) {
    // Register v holds k = 2 (lane % 4) + v % 2 + 8 (v / 4), row = lane / 4 + 8 (v / 2 % 2).
    for (int pair = 0; pair < 4; ++pair) {
      for (int lane = 0; lane < 32; ++lane) {
        const uint32_t both = registers[pair * 32 + lane];
        const int row = lane / 4 + 8 * (pair % 2), k = 2 * (lane % 4) + 8 * (pair / 2);
        bits[row * kDepth + k] = static_cast<uint16_t>(both);
        bits[row * kDepth + k + 1] = static_cast<uint16_t>(both >> 16);
      }
    }
  } else {
    ReadMatrix(warp, layout, ShapeOfA(warp, shape), kDepth, 1, bits);
  }
  Unpack(shape.type, bits, sizeof(bits) / sizeof(bits[0]), out);
}

void LoadB(Warp& warp, const Shape& shape, const OperandLayout& layout, Unpacked* out) {
  uint16_t bits[kDepth * kMaxColumns];
  ReadMatrix(warp, layout, ShapeOfB(shape), 1, shape.columns, bits);
  Unpack(shape.type, bits, static_cast<size_t>(kDepth * shape.columns), out);
}

// Four lanes' shares of a row: register v has the even columns, v + 1 the odd ones.
typedef float Four __attribute__((vector_size(16)));

// Calls body(even, odd, at): two rows of four lanes and where their eight columns begin in the
// accumulator. Register v holds row lane / 4 + 8 (v / 2 % 2) and column
// 2 (lane % 4) + v % 2 + 8 (v / 4).
template <typename Body>
void ForAccumulator(Warp& warp, const Slot* slots, int columns, Body body) {
  for (int v = 0; v < columns / 2; v += 2) {
    float* even = warp.Lanes<float>(slots[v]);
    float* odd = warp.Lanes<float>(slots[v + 1]);
    for (int row = 0; row < 8; ++row) {
      body(even + 4 * row, odd + 4 * row, (row + v / 2 % 2 * 8) * columns + v / 4 * 8);
    }
  }
}

void ReadAccumulator(Warp& warp, const Slot* slots, int columns, float* d) {
  ForAccumulator(warp, slots, columns, [&](const float* even, const float* odd, int at) {
    Four low, high;
    std::memcpy(&low, even, sizeof(low));
    std::memcpy(&high, odd, sizeof(high));
    const Four first = __builtin_shufflevector(low, high, 0, 4, 1, 5);
    const Four second = __builtin_shufflevector(low, high, 2, 6, 3, 7);
    std::memcpy(d + at, &first, sizeof(first));
    std::memcpy(d + at + 4, &second, sizeof(second));
  });
}

void WriteAccumulator(Warp& warp, const Slot* slots, int columns, const float* d) {
  ForAccumulator(warp, slots, columns, [&](float* even, float* odd, int at) {
    Four first, second;
    std::memcpy(&first, d + at, sizeof(first));
    std::memcpy(&second, d + at + 4, sizeof(second));
    const Four low = __builtin_shufflevector(first, second, 0, 2, 4, 6);
    const Four high = __builtin_shufflevector(first, second, 1, 3, 5, 7);
    std::memcpy(even, &low, sizeof(low));
    std::memcpy(odd, &high, sizeof(high));
  });
}

struct Operands {
  Shape shape;
  OperandLayout a, b;
  std::array<uint32_t, 4 * 32> registers = {};
  bool accumulate = false;
  const Op* op = nullptr;
};

void Compute(Warp& warp, const Operands& operands) {
  const int columns = operands.shape.columns;
  Unpacked a, b;
  LoadA(warp, operands.shape, operands.a, operands.registers.data(), &a);
  LoadB(warp, operands.shape, operands.b, &b);
  float d[kWarpRows * kMaxColumns];
  const Slot* slots = warp.machine->program.slots.data() + operands.op->first;
  ReadAccumulator(warp, slots, columns, d);
  const Product product = {operands.shape.type,
                           operands.shape.type,
                           kWarpRows,
                           columns,
                           kDepth,
                           operands.accumulate,
                           warp.machine->options.exact_tensor_cores};
  MultiplyAdd(product, a, b, d);
  WriteAccumulator(warp, slots, columns, d);
}

// Tells the race detector what this warp reads of shared memory: 16 bytes at a time.
void Watch(Warp& warp, const Operands& operands) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Async(warp, false, races->LaneChannel(warp, ChannelKind::kProducts, 0),
                             warp.wgmma_groups + 1);
  const auto visit = [&](const OperandLayout& layout, const OperandShape& shape) {
    ForOperandChunks(layout, shape, [&](uint32_t address, int, int, int) {
      races->VisitShared(&party, -1, *warp.cta, address, kOperandChunk);
    });
  };
  visit(operands.b, ShapeOfB(operands.shape));
  if (!operands.shape.a_in_registers) visit(operands.a, ShapeOfA(warp, operands.shape));
}

uint64_t QueueOf(const Warp& warp) {
  return (warp.cta->linear * 64 + static_cast<uint64_t>(warp.index)) << 1;
}

// op.first, op.count = accumulator; op.a = descriptor of A, or kNoSlot and op.target = first slot
// of A's registers; op.b = descriptor of B; op.c = predicate; op.immediate = shape.
Step Mma(Warp& warp, const Op& op) {
  Operands operands;
  operands.op = &op;
  operands.shape = {static_cast<ElementType>(op.immediate & 1), static_cast<int>(op.count) * 2,
                    op.a == kNoSlot, (op.immediate & 2) != 0, (op.immediate & 4) != 0};
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
  warp.Note(0, warp.wgmma_groups + 1,
            static_cast<uint64_t>(kWarpRows) * kDepth * op.count * 2);  // of this warp's rows
  Warp* owner = &warp;
  warp.machine->Start(QueueOf(warp), [owner, operands] {
    Compute(*owner, operands);
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
    races->Observe(warp, races->LaneChannel(warp, ChannelKind::kProducts, 0),
                   warp.wgmma_groups - pending);
  }
  return Step::kNext;
}

// Orders registers; memory needs fence.proxy.async (PTX ISA 9.7.15.7.1).
Step Fence(Warp& warp, const Op&) {
  if (warp.registers != nullptr) warp.registers->FenceProducts();
  return Step::kNext;
}

// "m64n128k16" -> 128; 0 if it is no such shape.
int Columns(std::string_view shape) {
  if (shape.rfind("m64n", 0) != 0) return 0;
  const size_t k = shape.find("k16");
  if (k == std::string_view::npos || k + 3 != shape.size()) return 0;
  int columns = 0;
  for (char c : shape.substr(4, k - 4)) {
    if (c < '0' || c > '9' || columns > 256) return 0;
    columns = columns * 10 + (c - '0');
  }
  return columns >= 8 && columns <= 256 && columns % 8 == 0 ? columns : 0;
}

void DecodeMma(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers, Op* op) {
  modifiers->OneOf({"sync"});
  modifiers->OneOf({"aligned"});
  const int columns = Columns(modifiers->Next());
  if (columns == 0) decoder.Fail(instruction, "this shape is not supported");
  modifiers->OneOf({"f32"});
  const std::string_view type = modifiers->OneOf({"bf16", "f16"});
  modifiers->OneOf({type});
  modifiers->Done();
  const bool in_registers =
      instruction.operands.size() > 1 && instruction.operands[1].kind == OperandKind::kVector;
  decoder.ExpectOperands(instruction, in_registers ? 7 : 8);
  const auto& operands = instruction.operands;
  op->immediate = static_cast<int64_t>(type == "bf16" ? ElementType::kBF16 : ElementType::kF16);
  if (in_registers) {
    if (decoder.Elements(operands[1], 4, false, op) != 4) {
      decoder.Fail(operands[1], "four registers are expected");
    }
    op->target = static_cast<int32_t>(op->first);
  } else {
    op->a = decoder.Source(operands[1], 8);
    if (decoder.Immediate(operands[6]) != 0) op->immediate |= 2;
  }
  op->b = decoder.Source(operands[2], 8);
  op->c = decoder.PredicateSource(operands[3]);
  if (decoder.Immediate(operands[4]) != 1 || decoder.Immediate(operands[5]) != 1) {
    decoder.Fail(instruction, "negated operands are not supported");
  }
  if (decoder.Immediate(operands[in_registers ? 6 : 7]) != 0) op->immediate |= 4;
  if (static_cast<int>(decoder.Elements(operands[0], 4, true, op)) * 2 != columns) {
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
