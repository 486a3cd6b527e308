// tcgen05.ld and st (PTX ISA, "Tensor Memory and Register Load/Store Instructions").
#include <algorithm>
#include <memory>

#include "emulator/check/tensor_watch.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/tcgen05.h"

namespace jax_fa4::emulator {
namespace {

enum class Shape : uint8_t { k32x32b, k16x64b, k16x128b, k16x256b, k16x32bx2 };

struct Place {
  uint32_t lane, column;  // from the address
};

// Where register `r` of thread `t` lies; the second half of 16x32bx2 as if it were the first.
Place PlaceOf(Shape shape, uint32_t t, uint32_t r) {
  switch (shape) {
    case Shape::k32x32b:
      return {t, r};
    case Shape::k16x64b:
      return {t / 4 + 8 * (t % 2), t / 2 % 2 + 2 * r};
    case Shape::k16x128b:
      return {t / 4 + 8 * (r % 2), t % 4 + 4 * (r / 2)};
    case Shape::k16x256b:
      return {t / 4 + 8 * (r / 2 % 2), 2 * (t % 4) + r % 2 + 8 * (r / 4)};
    case Shape::k16x32bx2:
      return {t % 16, r};
  }
  return {};
}

// op.small: the shape, and whether a register has the lower halves of two neighbouring cells.
constexpr uint8_t kPacked = 0x80;

Shape ShapeOf(const Op& op) { return static_cast<Shape>(op.small & ~kPacked); }
uint32_t CellsPerRegister(const Op& op) { return (op.small & kPacked) != 0 ? 2 : 1; }

// The first cell of register `r` of thread `t`.
Place FirstCell(const Op& op, uint32_t t, uint32_t r) {
  const Shape shape = ShapeOf(op);
  Place place = PlaceOf(shape, t, r);
  place.column *= CellsPerRegister(op);
  if (shape == Shape::k16x32bx2 && t >= 16) place.column += static_cast<uint32_t>(op.target);
  return place;
}

uint32_t ColumnsOf(const Op& op, uint32_t split) {
  const uint32_t columns = op.count * CellsPerRegister(op);
  switch (ShapeOf(op)) {
    case Shape::k32x32b:
      return columns;
    case Shape::k16x32bx2:
      return columns + split;
    default:
      return 2 * columns;
  }
}

// The address, checked: a warp reaches the 32 lanes of its own quadrant. op.a + op.immediate =
// address, op.small = shape, op.target = split.
uint32_t CheckedAddress(Warp& warp, const Op& op) {
  const uint32_t address = static_cast<uint32_t>(UniformValue(warp, op.a, 4, "addresses")) +
                           static_cast<uint32_t>(op.immediate);
  const uint32_t lanes = ShapeOf(op) == Shape::k32x32b ? 32 : 16;
  const uint32_t own = static_cast<uint32_t>(warp.index) % 4 * 32;
  const uint32_t lane = TensorLane(address);
  if (lane != own && !(lanes == 16 && lane == own + 16)) {
    warp.Report("tensor-memory", "lane " + std::to_string(lane) + " where warp " +
                                     std::to_string(warp.index) + " reaches lanes " +
                                     std::to_string(own) + " to " + std::to_string(own + 31));
  }
  const uint32_t columns = ColumnsOf(op, static_cast<uint32_t>(op.target));
  const std::string wrong =
      warp.cta->tensor.CheckRange(lane, lanes, TensorColumn(address), columns);
  if (!wrong.empty()) warp.Report("tensor-memory", "an access to " + wrong);
  return address;
}

TensorCells CellsOf(const Op& op, uint32_t address) {
  TensorCells cells;
  const Shape shape = ShapeOf(op);
  cells.quadrants = 1u << TensorLane(address) / 32;
  if (shape != Shape::k32x32b) cells.lanes = TensorLane(address) % 32 == 0 ? 0x3 : 0xc;
  cells.column = TensorColumn(address);
  cells.columns = ColumnsOf(op, 0);
  if (shape == Shape::k16x32bx2) cells.second = static_cast<uint32_t>(op.target);
  return cells;
}

// Tells the checks of a load that begins.
void WatchLoad(Warp& warp, const Op& op, uint32_t address) {
  const uint32_t load = WatchTensorAccess(warp, false, CellsOf(op, address));
  if (warp.registers != nullptr && load != 0) {
    warp.registers->StartLoad(warp, warp.machine->program.op_registers[warp.group().pc], load);
  } else if (warp.machine->options.level == Level::kHardware) {
    WatchTensorLoads(warp, load);  // nobody sees when its registers are used
  }
}

Step Load(Warp& warp, const Op& op) {
  const uint32_t address = CheckedAddress(warp, op);
  WatchLoad(warp, op, address);
  TensorMemory& memory = warp.cta->tensor;
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  const auto read = [&](uint32_t t, uint32_t lane, uint32_t column) {
    if (*memory.Written(lane, column) == 0) {
      warp.Report("uninitialised",
                  "a read of tensor memory lane " + std::to_string(lane) + ", column " +
                      std::to_string(column) + ", which nothing has written",
                  static_cast<int>(t));
    }
    return *memory.Cell(lane, column);
  };
  for (uint32_t r = 0; r < op.count; ++r) {
    uint32_t* d = warp.Lanes<uint32_t>(slots[r]);
    for (uint32_t t = 0; t < 32; ++t) {
      const Place place = FirstCell(op, t, r);
      const uint32_t lane = TensorLane(address) + place.lane;
      const uint32_t column = TensorColumn(address) + place.column;
      d[t] = read(t, lane, column);
      if (CellsPerRegister(op) == 2) d[t] = (d[t] & 0xffff) | read(t, lane, column + 1) << 16;
    }
  }
  return Step::kNext;
}

// Takes effect when the scheduler lets it, at the latest at tcgen05.wait::st.
Step Store(Warp& warp, const Op& op) {
  const uint32_t address = CheckedAddress(warp, op);
  WatchTensorAccess(warp, true, CellsOf(op, address));
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  auto values = std::make_shared<std::vector<uint32_t>>(op.count * 32);
  for (uint32_t r = 0; r < op.count; ++r) {
    std::copy_n(warp.Lanes<uint32_t>(slots[r]), 32, values->data() + r * 32);
  }
  ++warp.tensor_stores;
  Warp* owner = &warp;
  const Origin origin(warp, -1);
  const Op* stored = &op;
  warp.Note(address, 0, values->size() * 4);
  warp.machine->Start(TensorQueue(warp, 0) | uint64_t{1} << 62, [=] {
    TensorMemory& memory = owner->cta->tensor;
    const uint32_t columns = ColumnsOf(*stored, static_cast<uint32_t>(stored->target));
    const std::string wrong =
        memory.CheckRange(TensorLane(address), 16, TensorColumn(address), columns);
    if (!wrong.empty()) origin.Report("tensor-memory", "a store that completes in " + wrong);
    for (uint32_t i = 0; i < values->size(); ++i) {
      const Place place = FirstCell(*stored, i % 32, i / 32);
      const uint32_t lane = TensorLane(address) + place.lane;
      const uint32_t cells = CellsPerRegister(*stored);
      for (uint32_t cell = 0; cell < cells; ++cell) {
        const uint32_t column = TensorColumn(address) + place.column + cell;
        const uint32_t half = (*values)[i] >> 16 * cell & 0xffff;
        *memory.Cell(lane, column) = cells == 2 ? half : (*values)[i];
        *memory.Written(lane, column) = 1;
      }
    }
    --owner->tensor_stores;
  });
  return Step::kNext;
}

}  // namespace

void DecodeTensorAccess(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                        bool loads, Op* op) {
  static constexpr std::string_view kShapes[] = {"32x32b", "16x64b", "16x128b", "16x256b",
                                                 "16x32bx2"};
  modifiers->OneOf({"sync"});
  modifiers->OneOf({"aligned"});
  op->converged = true;
  const std::string_view shape =
      modifiers->OneOf({kShapes[0], kShapes[1], kShapes[2], kShapes[3], kShapes[4]});
  const auto number = static_cast<uint32_t>(std::find(kShapes, kShapes + 5, shape) - kShapes);
  const std::string_view repeat =
      modifiers->OneOf({"x1", "x2", "x4", "x8", "x16", "x32", "x64", "x128"});
  const bool packed = modifiers->Take(loads ? "pack::16b" : "unpack::16b");
  modifiers->OneOf({"b32"});
  modifiers->Done();
  const bool split = static_cast<Shape>(number) == Shape::k16x32bx2;
  decoder.ExpectOperands(instruction, split ? 3 : 2);
  const Operand& address = instruction.operands[loads ? 0 + 1 : 0];
  const Operand& values = instruction.operands[loads ? 0 : instruction.operands.size() - 1];
  const uint32_t factor = number == 2 ? 2 : number == 3 ? 4 : 1;
  const uint32_t registers =
      factor * static_cast<uint32_t>(std::stoi(std::string(repeat.substr(1))));
  if (registers > 128) decoder.Fail(instruction, "more than 128 registers");
  decoder.Address(address, 0, op);
  if (op->small != 4) decoder.Fail(address, "a 32-bit address is expected here");
  if (decoder.Elements(values, 4, loads, op) != registers) {
    decoder.Fail(values, std::to_string(registers) + " registers are expected");
  }
  op->small = static_cast<uint8_t>(number | (packed ? kPacked : 0));
  if (split) {
    const Operand& offset = instruction.operands[loads ? 2 : 1];
    const uint64_t columns = decoder.Immediate(offset);
    if (columns >= kTensorColumns) decoder.Fail(offset, "tensor memory has 512 columns");
    op->target = static_cast<int32_t>(columns);
  }
  op->run = loads ? Load : Store;
}

}  // namespace jax_fa4::emulator
