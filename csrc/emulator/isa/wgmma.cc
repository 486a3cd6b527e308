// Warpgroup matrix products (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//
// Each of the four warps computes the 16 rows that are its own; nothing else of the warpgroup
// matters to it. Products of one warp take effect in order.
#include <memory>

#include "emulator/async/tensor_core.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

constexpr int kDepth = 16;
constexpr int kWarpRows = 16;

struct Shape {
  ElementType type;
  int columns;
  bool a_in_registers;
  bool transpose_a, transpose_b;
};

// A matrix in shared memory, by its 64-bit descriptor.
struct Matrix {
  uint32_t start, leading, stride;
  int swizzle_bits;  // log2 of the swizzle's rows: 0, 1 (32 bytes), 2 (64), 3 (128)
};

Matrix ReadDescriptor(Warp& warp, uint64_t descriptor) {
  static constexpr int kSwizzleBits[] = {0, 3, 2, 1};
  Matrix matrix;
  matrix.start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  matrix.leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  matrix.stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  matrix.swizzle_bits = kSwizzleBits[descriptor >> 62];
  if ((descriptor >> 49 & 7) != 0) warp.Report("descriptor", "a base offset is not supported");
  return matrix;
}

// Shared address of element (row, k) of 16-bit type; `row` runs along M or N.
uint32_t ElementAddress(const Matrix& matrix, bool transposed, uint32_t row, uint32_t k) {
  const int bits = matrix.swizzle_bits;
  uint32_t offset = 0;
  if (!transposed) {
    offset = bits == 0 ? row % 8 * 16 + row / 8 * matrix.stride + k % 8 * 2 + k / 8 * matrix.leading
                       : row % 8 * (16u << bits) + row / 8 * matrix.stride + k * 2;
  } else if (bits == 0) {
    offset = row % 8 * 2 + row / 8 * matrix.stride + k % 8 * 16 + k / 8 * matrix.leading;
  } else {
    const uint32_t chunks = 1u << bits;
    offset = row % 8 * 2 + row / 8 % chunks * 16 + row / (8 * chunks) * matrix.leading +
             k % 8 * chunks * 16 + k / 8 * matrix.stride;
  }
  const uint32_t address = matrix.start + offset;
  return address ^ ((address >> 7 & ((1u << bits) - 1)) << 4);
}

uint16_t ReadElement(Warp& warp, const Matrix& matrix, bool transposed, uint32_t row, uint32_t k) {
  const uint64_t rank = uint64_t{warp.cta->rank} << 24;
  uint16_t bits;
  std::memcpy(
      &bits,
      warp.machine->Shared(warp, -1, rank | ElementAddress(matrix, transposed, row, k), 2, false),
      2);
  return bits;
}

// This warp's 16 rows of A: from registers, or from shared memory.
void LoadA(Warp& warp, const Shape& shape, const Matrix& matrix, const uint32_t* registers,
           Unpacked* out) {
  uint16_t bits[kWarpRows * kDepth];
  const uint32_t first_row = static_cast<uint32_t>(warp.index % 4) * kWarpRows;
  for (uint32_t row = 0; row < kWarpRows; ++row) {
    for (uint32_t k = 0; k < kDepth; ++k) {
      if (shape.a_in_registers) {
        // Register v holds k = 2 (lane % 4) + v % 2 + 8 (v / 4), row = lane / 4 + 8 (v / 2 % 2).
        const uint32_t lane = row % 8 * 4 + k % 8 / 2;
        const uint32_t v = k % 2 + 2 * (row / 8) + 4 * (k / 8);
        bits[row * kDepth + k] =
            static_cast<uint16_t>(registers[v / 2 * 32 + lane] >> (16 * (v % 2)));
      } else {
        bits[row * kDepth + k] = ReadElement(warp, matrix, shape.transpose_a, first_row + row, k);
      }
    }
  }
  Unpack(shape.type, bits, sizeof(bits) / sizeof(bits[0]), out);
}

void LoadB(Warp& warp, const Shape& shape, const Matrix& matrix, Unpacked* out) {
  std::vector<uint16_t> bits(static_cast<size_t>(kDepth * shape.columns));
  for (int k = 0; k < kDepth; ++k) {
    for (int n = 0; n < shape.columns; ++n) {
      bits[k * shape.columns + n] = ReadElement(warp, matrix, shape.transpose_b,
                                                static_cast<uint32_t>(n), static_cast<uint32_t>(k));
    }
  }
  Unpack(shape.type, bits.data(), bits.size(), out);
}

// Reads and writes the accumulator: register v holds row lane / 4 + 8 (v / 2 % 2) and column
// 2 (lane % 4) + v % 2 + 8 (v / 4).
template <typename Body>
void ForAccumulator(int columns, Body body) {
  for (int v = 0; v < columns / 2; ++v) {
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4 + 8 * (v / 2 % 2);
      const int column = 2 * (lane % 4) + v % 2 + 8 * (v / 4);
      body(v, lane, row * columns + column);
    }
  }
}

struct Operands {
  Shape shape;
  Matrix a, b;
  std::array<uint32_t, 4 * 32> registers = {};
  bool accumulate = false;
  const Op* op = nullptr;
};

void Compute(Warp& warp, const Operands& operands) {
  const int columns = operands.shape.columns;
  Unpacked a, b;
  LoadA(warp, operands.shape, operands.a, operands.registers.data(), &a);
  LoadB(warp, operands.shape, operands.b, &b);
  std::vector<float> d(static_cast<size_t>(kWarpRows * columns));
  const Slot* slots = warp.machine->program.slots.data() + operands.op->first;
  ForAccumulator(columns, [&](int v, int lane, int at) {
    d[static_cast<size_t>(at)] = warp.Lanes<float>(slots[v])[lane];
  });
  const Product product = {operands.shape.type,
                           operands.shape.type,
                           kWarpRows,
                           columns,
                           kDepth,
                           operands.accumulate,
                           warp.machine->options.exact_tensor_cores};
  MultiplyAdd(product, a, b, d.data());
  ForAccumulator(columns, [&](int v, int lane, int at) {
    warp.Lanes<float>(slots[v])[lane] = d[static_cast<size_t>(at)];
  });
}

// Tells the race detector what this warp reads of shared memory: 16 bytes at a time.
void Watch(Warp& warp, const Operands& operands) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Async(warp, false, races->LaneChannel(warp, ChannelKind::kProducts, 0),
                             warp.wgmma_groups + 1);
  const auto visit = [&](const Matrix& matrix, bool transposed, uint32_t first, uint32_t rows) {
    const uint32_t row_step = transposed ? 8 : 1;
    const uint32_t k_step = transposed ? 1 : 8;
    for (uint32_t row = first; row < first + rows; row += row_step) {
      for (uint32_t k = 0; k < kDepth; k += k_step) {
        const uint32_t address = ElementAddress(matrix, transposed, row, k);
        races->VisitShared(&party, -1, *warp.cta, address, 16);
      }
    }
  };
  const Shape& shape = operands.shape;
  visit(operands.b, shape.transpose_b, 0, static_cast<uint32_t>(shape.columns));
  if (shape.a_in_registers) return;
  visit(operands.a, shape.transpose_a, static_cast<uint32_t>(warp.index % 4) * kWarpRows,
        kWarpRows);
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
