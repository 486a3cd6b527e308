// Warpgroup matrix products (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//
// Each of the four warps computes the 16 rows that are its own; nothing else of the warpgroup
// matters to it. Products of one warp take effect in order.
#include <algorithm>
#include <memory>

#include "emulator/async/matrix_operand.h"
#include "emulator/async/tensor_core.h"
#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

constexpr int kRowBytes = 32;  // of an operand: all of K
constexpr int kWarpRows = 16;
constexpr int kMaxColumns = 256;

struct Shape {
  ElementType a_type, b_type;
  int columns;
  bool a_in_registers;
  bool transpose_a, transpose_b;
  bool negate_a, negate_b;
  bool half;  // the accumulator is float16, two in a register

  int element_bytes() const { return ElementBytes(a_type); }
  int depth() const { return kRowBytes / element_bytes(); }
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
  return {kWarpRows, shape.depth(), shape.element_bytes(), shape.transpose_a,
          warp.index % 4 * kWarpRows};
}

OperandShape ShapeOfB(const Shape& shape) {
  return {shape.columns, shape.depth(), shape.element_bytes(), shape.transpose_b};
}

// Writes element (row, k) to out[row * row_step + k * depth_step], as WidenChunk does.
void ReadMatrix(Warp& warp, const OperandLayout& layout, const OperandShape& shape, int row_step,
                int depth_step, uint16_t* out) {
  const uint64_t rank = uint64_t{warp.cta->rank} << 24;
  const int step = shape.transposed ? row_step : depth_step;
  ForOperandChunks(layout, shape, [&](uint32_t address, int row, int k, int count) {
    const uint8_t* from = warp.machine->Shared(warp, -1, rank | address, kOperandChunk, false);
    WidenChunk(from, count, shape.element_bytes, step,
               out + (row * row_step + k * depth_step) * ElementPlaces(shape.element_bytes));
  });
}

void Negate(Unpacked* operand) {
  for (float& value : operand->value) value = -value;
}

// This warp's 16 rows of A: from registers, or from shared memory.
void LoadA(Warp& warp, const Shape& shape, const OperandLayout& layout, const uint32_t* registers,
           Unpacked* out) {
  const int size = shape.element_bytes(), depth = shape.depth();
  uint16_t bits[kWarpRows * kRowBytes];
  if (shape.a_in_registers) {
    // Register v holds 4 bytes from 4 (lane % 4) + 16 (v / 2) on of row lane / 4 + 8 (v % 2).
    for (int v = 0; v < 4; ++v) {
      for (int lane = 0; lane < 32; ++lane) {
        uint8_t bytes[4];
        std::memcpy(bytes, &registers[v * 32 + lane], sizeof(bytes));
        const int row = lane / 4 + 8 * (v % 2), k = (4 * (lane % 4) + 16 * (v / 2)) / size;
        WidenChunk(bytes, 4 / size, size, 1, bits + (row * depth + k) * ElementPlaces(size));
      }
    }
  } else {
    ReadMatrix(warp, layout, ShapeOfA(warp, shape), depth, 1, bits);
  }
  Unpack(shape.a_type, bits, static_cast<size_t>(kWarpRows * depth), out);
  if (shape.negate_a) Negate(out);
}

void LoadB(Warp& warp, const Shape& shape, const OperandLayout& layout, Unpacked* out) {
  uint16_t bits[kRowBytes * kMaxColumns];
  ReadMatrix(warp, layout, ShapeOfB(shape), 1, shape.columns, bits);
  Unpack(shape.b_type, bits, static_cast<size_t>(shape.depth() * shape.columns), out);
  if (shape.negate_b) Negate(out);
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

// A float16 accumulator: register v holds two columns of row lane / 4 + 8 (v % 2), from
// 2 (lane % 4) + 8 (v / 2) on.
template <typename Body>
void ForHalfAccumulator(Warp& warp, const Slot* slots, int columns, Body body) {
  for (int v = 0; v < columns / 4; ++v) {
    uint32_t* pairs = warp.Lanes<uint32_t>(slots[v]);
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4 + 8 * (v % 2), column = 2 * (lane % 4) + 8 * (v / 2);
      body(&pairs[lane], row * columns + column);
    }
  }
}

void ReadHalfAccumulator(Warp& warp, const Slot* slots, int columns, float* d) {
  ForHalfAccumulator(warp, slots, columns, [&](const uint32_t* pair, int at) {
    d[at] = FloatFromHalf(static_cast<uint16_t>(*pair));
    d[at + 1] = FloatFromHalf(static_cast<uint16_t>(*pair >> 16));
  });
}

void WriteHalfAccumulator(Warp& warp, const Slot* slots, int columns, const float* d) {
  ForHalfAccumulator(warp, slots, columns, [&](uint32_t* pair, int at) {
    *pair = static_cast<uint32_t>(HalfFromFloat(d[at + 1])) << 16 | HalfFromFloat(d[at]);
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
  const Shape& shape = operands.shape;
  Unpacked a, b;
  LoadA(warp, shape, operands.a, operands.registers.data(), &a);
  LoadB(warp, shape, operands.b, &b);
  float d[kWarpRows * kMaxColumns];
  const Slot* slots = warp.machine->program.slots.data() + operands.op->first;
  (shape.half ? ReadHalfAccumulator : ReadAccumulator)(warp, slots, shape.columns, d);
  Product product = {shape.a_type,
                     shape.b_type,
                     kWarpRows,
                     shape.columns,
                     shape.depth(),
                     operands.accumulate,
                     warp.machine->options.exact_tensor_cores,
                     shape.half};
  // Hopper keeps fewer bits of 8-bit products; Blackwell does not (MMA-Sim).
  if (shape.element_bytes() == 1) product.aligned_bits = product.kept_bits = 13;
  MultiplyAdd(product, a, b, d);
  (shape.half ? WriteHalfAccumulator : WriteAccumulator)(warp, slots, shape.columns, d);
}

// Tells the race detector what this warp reads of shared memory: 16 bytes at a time.
void Watch(Warp& warp, const Operands& operands) {
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

Shape ShapeOf(const Op& op) {
  Shape shape;
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
  Operands operands;
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
  const Shape& shape = operands.shape;
  warp.Note(0, warp.wgmma_groups + 1,
            static_cast<uint64_t>(kWarpRows * shape.depth() * shape.columns));  // of its rows
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
  const int columns = Columns(shape, kRowBytes / size);
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
