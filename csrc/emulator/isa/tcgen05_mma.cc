// tcgen05.mma (PTX ISA, "tcgen05.mma").
//
// A product reads its operands and writes D when the scheduler lets it complete; those of one
// thread take effect in order, and a commit arrives after all that its thread issued before.
#include "emulator/isa/tcgen05_mma.h"

#include <cmath>
#include <memory>
#include <utility>

#include "emulator/async/matrix_operand.h"
#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// From the first to the last that a product uses.
uint32_t LanesOf(const Mma& mma) { return mma.rows() == 64 && !Folded(mma) ? 112 : 128; }

void ReadTensorA(const Mma& mma, Cta* cta, const Origin& origin, std::vector<uint16_t>* bits) {
  TensorMemory& memory = cta->tensor;
  const uint32_t address = static_cast<uint32_t>(mma.a);
  const uint32_t first = TensorColumn(address);
  const std::string wrong =
      memory.CheckRange(TensorLane(address), Folded(mma) ? 64 : LanesOf(mma), first, 8);
  if (!wrong.empty()) origin.Report("tensor-memory", "A in " + wrong);
  const int size = ElementBytes(mma.shape.a_type), per_cell = 4 / size;
  for (int m = 0; m < mma.rows(); ++m) {
    const uint32_t lane = LaneOfRow(mma, address, static_cast<uint32_t>(m));
    for (uint32_t column = 0; column < 8; ++column) {
      if (*memory.Written(lane, first + column) == 0) {
        origin.Report("uninitialised", "A in tensor memory lane " + std::to_string(lane) +
                                           ", column " + std::to_string(first + column) +
                                           ", which nothing has written");
      }
      uint8_t bytes[4];
      std::memcpy(bytes, memory.Cell(lane, first + column), sizeof(bytes));
      const int element = m * mma.depth() + static_cast<int>(column) * per_cell;
      WidenChunk(bytes, per_cell, size, 1, bits->data() + element * ElementPlaces(size));
    }
  }
}

void Negate(Unpacked* operand) {
  for (float& value : operand->value) value = -value;
}

Unpacked LoadA(const Mma& mma, Cta* cta, const Origin& origin) {
  const int size = ElementBytes(mma.shape.a_type), elements = mma.rows() * mma.depth();
  std::vector<uint16_t> bits(static_cast<size_t>(elements * ElementPlaces(size)));
  if (mma.a_in_tensor_memory) {
    ReadTensorA(mma, cta, origin, &bits);
  } else {
    const OperandShape shape = {mma.rows(), mma.depth(), size, mma.shape.transpose_a};
    const std::string wrong = ReadOperand(*cta, mma.a, shape, mma.depth(), 1, bits.data());
    if (!wrong.empty()) origin.Report("uninitialised", "A in shared memory: " + wrong);
  }
  Unpacked a;
  Unpack(mma.shape.a_type, bits.data(), static_cast<size_t>(elements), &a);
  if (mma.shape.negate_a) Negate(&a);
  return a;
}

// B's columns, those of a pair's odd CTA after those of the even one.
Unpacked LoadB(const Mma& mma, const Origin& origin) {
  const int columns = mma.shape.columns;
  const int share = columns / static_cast<int>(mma.ctas.size());
  const int size = ElementBytes(mma.shape.b_type), places = ElementPlaces(size);
  const int elements = columns * mma.depth();
  std::vector<uint16_t> bits(static_cast<size_t>(elements * places));
  const OperandShape shape = {share, mma.depth(), size, mma.shape.transpose_b};
  for (size_t i = 0; i < mma.ctas.size(); ++i) {
    const std::string wrong = ReadOperand(*mma.ctas[i], mma.b, shape, 1, columns,
                                          bits.data() + static_cast<int>(i) * share * places);
    if (!wrong.empty()) origin.Report("uninitialised", "B in shared memory: " + wrong);
  }
  Unpacked b;
  Unpack(mma.shape.b_type, bits.data(), static_cast<size_t>(elements), &b);
  if (mma.shape.negate_b) Negate(&b);
  return b;
}

// Calls body(row, first column of the product, lane, first column in memory, columns).
template <typename Body>
void ForRowsOfD(const Mma& mma, Body body) {
  const uint32_t first = TensorColumn(mma.d);
  const int columns = mma.shape.columns;
  for (int m = 0; m < mma.rows(); ++m) {
    const uint32_t lane = LaneOfRow(mma, mma.d, static_cast<uint32_t>(m));
    if (Folded(mma)) {
      body(m, 0, lane, first, columns / 2);
      body(m, columns / 2, lane + 64, first, columns / 2);
    } else {
      body(m, 0, lane, first, columns);
    }
  }
}

void CheckD(const Mma& mma, Cta* cta, const Origin& origin) {
  const uint32_t columns = static_cast<uint32_t>(mma.shape.columns / (Folded(mma) ? 2 : 1));
  const std::string wrong =
      cta->tensor.CheckRange(TensorLane(mma.d), LanesOf(mma), TensorColumn(mma.d), columns);
  if (!wrong.empty()) origin.Report("tensor-memory", "D in " + wrong);
}

void ReadCells(const Mma& mma, const uint32_t* cells, int count, float* d) {
  if (!mma.shape.half) {
    std::memcpy(d, cells, static_cast<size_t>(count) * 4);
  } else {
    for (int i = 0; i < count; ++i) d[i] = FloatFromHalf(static_cast<uint16_t>(cells[i]));
  }
  if (mma.scale == 0) return;
  for (int i = 0; i < count; ++i) d[i] = std::ldexp(d[i], -mma.scale);
}

void WriteCells(const Mma& mma, const float* d, int count, uint32_t* cells) {
  if (!mma.shape.half) {
    std::memcpy(cells, d, static_cast<size_t>(count) * 4);
  } else {
    for (int i = 0; i < count; ++i) cells[i] = HalfFromFloat(d[i]);
  }
}

void ComputeOn(const Mma& mma, Cta* cta, const Unpacked& b, const Origin& origin) {
  CheckD(mma, cta, origin);
  const Unpacked a = LoadA(mma, cta, origin);
  std::vector<float> d(static_cast<size_t>(mma.rows() * mma.shape.columns));
  TensorMemory& memory = cta->tensor;
  const auto row = [&](int m, int column) { return d.data() + m * mma.shape.columns + column; };
  if (mma.accumulate) {
    ForRowsOfD(mma, [&](int m, int column, uint32_t lane, uint32_t first, int count) {
      const size_t bytes = static_cast<size_t>(count);
      const void* hole = std::memchr(memory.Written(lane, first), 0, bytes);
      if (hole != nullptr) {
        const auto at = static_cast<const uint8_t*>(hole) - memory.Written(lane, 0);
        origin.Report("uninitialised", "adds to tensor memory lane " + std::to_string(lane) +
                                           ", column " + std::to_string(at) +
                                           ", which nothing has written");
      }
      ReadCells(mma, memory.Cell(lane, first), count, row(m, column));
    });
  }
  const Product product = {mma.shape.a_type, mma.shape.b_type, mma.rows(), mma.shape.columns,
                           mma.depth(),      mma.accumulate,   mma.exact,  mma.shape.half};
  MultiplyAdd(product, a, b, d.data());
  const uint32_t* disabled = mma.disabled + (cta == mma.ctas[0] ? 0 : 4);
  ForRowsOfD(mma, [&](int m, int column, uint32_t lane, uint32_t first, int count) {
    if ((disabled[lane / 32] >> lane % 32 & 1u) != 0) return;
    WriteCells(mma, row(m, column), count, memory.Cell(lane, first));
    std::memset(memory.Written(lane, first), 1, static_cast<size_t>(count));
  });
}

std::vector<Cta*> CtasOf(const Warp& warp, int group) {
  if (group == 1) return {warp.cta};
  Cta& peer = PeerCta(warp);
  if (warp.cta->rank % 2 == 0) return {warp.cta, &peer};
  return {&peer, warp.cta};
}

// op.small: bit 0 A in tensor memory, bit 1 two CTAs, from bit 2 the kind, from bit 4 the scale of
// D. op.d, op.immediate = D;
// op.a, op.target = A; op.b = B; op.c = instruction descriptor; slots: the lanes to leave alone,
// then the predicate.
Step IssueMma(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  ForLanes(warp.exec, [&](int lane) {
    const Origin origin(warp, lane);
    CheckCtaGroup(warp, (op.small & 2) != 0 ? 2 : 1);
    auto mma = std::make_shared<Mma>();
    mma->ctas = CtasOf(warp, (op.small & 2) != 0 ? 2 : 1);
    mma->shape =
        ReadDescription(warp.Lanes<uint32_t>(op.c)[lane], static_cast<MmaKind>(op.small >> 2 & 3),
                        static_cast<int>(mma->ctas.size()), origin);
    mma->exact = warp.machine->options.exact_tensor_cores;
    mma->accumulate = (warp.Predicate(slots[op.count]) >> lane & 1u) != 0;
    mma->a_in_tensor_memory = (op.small & 1) != 0;
    mma->scale = op.small >> 4;
    mma->a = mma->a_in_tensor_memory
                 ? warp.Lanes<uint32_t>(op.a)[lane] + static_cast<uint32_t>(op.target)
                 : warp.Lanes<uint64_t>(op.a)[lane];
    mma->b = warp.Lanes<uint64_t>(op.b)[lane];
    mma->d = warp.Lanes<uint32_t>(op.d)[lane] + static_cast<uint32_t>(op.immediate);
    if (mma->scale != 0 && mma->shape.half) {
      origin.Report("descriptor", "a scaled float16 accumulator is not supported");
    }
    if (TensorLane(mma->d) != 0 && !(mma->rows() == 64 && TensorLane(mma->d) == 16)) {
      origin.Report("tensor-memory", "D begins at lane " + std::to_string(TensorLane(mma->d)));
    }
    if (mma->a_in_tensor_memory &&
        TensorLane(static_cast<uint32_t>(mma->a)) != TensorLane(mma->d)) {
      origin.Report("tensor-memory", "A and D begin at different lanes");
    }
    std::string wrong = CheckDescriptor(mma->b);
    if (wrong.empty() && !mma->a_in_tensor_memory) wrong = CheckDescriptor(mma->a);
    if (!wrong.empty()) origin.Report("descriptor", wrong + " is not supported");
    for (uint32_t i = 0; i < op.count; ++i) {
      mma->disabled[i] = warp.Lanes<uint32_t>(slots[i])[lane];
    }
    for (Cta* cta : mma->ctas) CheckD(*mma, cta, origin);
    WatchMma(warp, lane, *mma);
    warp.Note(mma->d, 0,
              static_cast<uint64_t>(mma->shape.rows) * mma->shape.columns * mma->depth());
    warp.machine->Start(TensorQueue(warp, lane), [mma, origin] {
      const Unpacked b = LoadB(*mma, origin);
      for (Cta* cta : mma->ctas) ComputeOn(*mma, cta, b, origin);
    });
  });
  return Step::kNext;
}

}  // namespace

void DecodeTensorMma(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op) {
  const int group = TakeCtaGroup(modifiers);
  const std::string_view name = modifiers->OneOf({"kind::f16", "kind::f8f6f4", "kind::tf32"});
  const MmaKind kind = name == "kind::f16"    ? MmaKind::kF16
                       : name == "kind::tf32" ? MmaKind::kTF32
                                              : MmaKind::kF8F6F4;
  // Hints of how long A stays in the collector; they change no result.
  for (const char* hint : {"fill", "use", "lastuse", "discard"}) {
    if (modifiers->Take(std::string("collector::a::") + hint)) break;
  }
  modifiers->Done();
  const auto& operands = instruction.operands;
  const size_t count = operands.size();
  if (count < 5 || count > 7) decoder.Fail(instruction, "five to seven operands are expected");
  const bool masked = operands[4].kind == OperandKind::kVector;
  const size_t enable = masked ? 5 : 4;  // whether D is added; behind it, its scale
  if (count < enable + 1 || count > enable + 2) {
    decoder.Fail(instruction, "operands out of order");
  }
  uint64_t scale = 0;
  if (count == enable + 2) {
    scale = decoder.Immediate(operands[enable + 1]);
    if (kind == MmaKind::kF8F6F4 || scale > 15) {
      decoder.Fail(operands[enable + 1], "a scale from 0 to 15 of kind::f16 or kind::tf32");
    }
  }
  const bool a_in_tensor_memory = operands[1].kind == OperandKind::kAddress;
  if (a_in_tensor_memory) {
    decoder.Address(operands[1], 0, op);
    if (op->small != 4) decoder.Fail(operands[1], "a 32-bit address is expected here");
    op->target = static_cast<int32_t>(op->immediate);
  } else {
    op->a = decoder.Source(operands[1], 8);
  }
  const Slot a = op->a;
  decoder.Address(operands[0], 0, op);
  if (op->small != 4) decoder.Fail(operands[0], "a 32-bit address is expected here");
  op->d = std::exchange(op->a, a);
  op->b = decoder.Source(operands[2], 8);
  op->c = decoder.Source(operands[3], 4);
  op->first = static_cast<uint32_t>(decoder.program().slots.size());
  if (masked && decoder.Elements(operands[4], 4, false, op) != 4u * static_cast<uint32_t>(group)) {
    decoder.Fail(operands[4], "four registers a CTA are expected");
  }
  decoder.mutable_program()->slots.push_back(decoder.PredicateSource(operands[enable]));
  op->small = static_cast<uint8_t>((a_in_tensor_memory ? 1 : 0) | (group == 2 ? 2 : 0) |
                                   static_cast<int>(kind) << 2 | static_cast<int>(scale) << 4);
  op->run = IssueMma;
}

}  // namespace jax_fa4::emulator
