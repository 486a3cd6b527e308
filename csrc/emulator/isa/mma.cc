// A warp's product of matrices in registers (PTX ISA, "mma"): m16n8k8 and m16n8k16 of 16-bit
// elements with a float32 accumulator.
#include "emulator/async/tensor_core.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

constexpr int kRows = 16;
constexpr int kColumns = 8;
constexpr int kMaxDepth = 16;
constexpr uint32_t kSums = 4;  // registers of an accumulator

// Two elements a register. A's register v: row t / 4 + 8 (v % 2), from column 2 (t % 4) + 8 (v / 2)
// on, of lane t. B's: column t / 4, from row 2 (t % 4) + 8 v on.
void ReadA(Warp& warp, const Slot* slots, int depth, uint16_t* out) {
  for (int v = 0; v < depth / 4; ++v) {
    const uint32_t* pairs = warp.Lanes<uint32_t>(slots[v]);
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4 + 8 * (v % 2), k = 2 * (lane % 4) + 8 * (v / 2);
      out[row * depth + k] = static_cast<uint16_t>(pairs[lane]);
      out[row * depth + k + 1] = static_cast<uint16_t>(pairs[lane] >> 16);
    }
  }
}

void ReadB(Warp& warp, const Slot* slots, int depth, uint16_t* out) {
  for (int v = 0; v < depth / 8; ++v) {
    const uint32_t* pairs = warp.Lanes<uint32_t>(slots[v]);
    for (int lane = 0; lane < 32; ++lane) {
      const int k = 2 * (lane % 4) + 8 * v, column = lane / 4;
      out[k * kColumns + column] = static_cast<uint16_t>(pairs[lane]);
      out[(k + 1) * kColumns + column] = static_cast<uint16_t>(pairs[lane] >> 16);
    }
  }
}

// Where an accumulator's register v of a lane lies: row t / 4 + 8 (v / 2), column 2 (t % 4) + v
// % 2.
int PlaceOfSum(int v, int lane) {
  return (lane / 4 + 8 * (v / 2)) * kColumns + 2 * (lane % 4) + v % 2;
}

// Slots from op.first on: d, a, b, c. op.small = depth.
template <ElementType kType>
Step Multiply(Warp& warp, const Op& op) {
  const int depth = op.small;
  const Slot* d_slots = warp.machine->program.slots.data() + op.first;
  const Slot* a_slots = d_slots + kSums;
  const Slot* b_slots = a_slots + depth / 4;
  const Slot* c_slots = b_slots + depth / 8;
  uint16_t a_bits[kRows * kMaxDepth], b_bits[kMaxDepth * kColumns];
  ReadA(warp, a_slots, depth, a_bits);
  ReadB(warp, b_slots, depth, b_bits);
  Unpacked a, b;
  Unpack(kType, a_bits, static_cast<size_t>(kRows * depth), &a);
  Unpack(kType, b_bits, static_cast<size_t>(depth * kColumns), &b);
  float sums[kRows * kColumns];
  for (uint32_t v = 0; v < kSums; ++v) {
    const float* c = warp.Lanes<float>(c_slots[v]);
    for (int lane = 0; lane < 32; ++lane) sums[PlaceOfSum(static_cast<int>(v), lane)] = c[lane];
  }
  const Product product = {
      kType, kType, kRows, kColumns, depth, true, warp.machine->options.exact_tensor_cores};
  MultiplyAdd(product, a, b, sums);
  for (uint32_t v = 0; v < kSums; ++v) {
    float* d = warp.Lanes<float>(d_slots[v]);
    for (int lane = 0; lane < 32; ++lane) d[lane] = sums[PlaceOfSum(static_cast<int>(v), lane)];
  }
  return Step::kNext;
}

void DecodeMma(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"sync"});
  modifiers.OneOf({"aligned"});
  const uint32_t depth = modifiers.OneOf({"m16n8k16", "m16n8k8"}) == "m16n8k16" ? 16 : 8;
  modifiers.OneOf({"row"});
  modifiers.OneOf({"col"});
  modifiers.OneOf({"f32"});
  const std::string_view type = modifiers.OneOf({"bf16", "f16"});
  modifiers.OneOf({type});
  modifiers.OneOf({"f32"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 4);
  const uint32_t registers[] = {kSums, depth / 4, depth / 8, kSums};
  uint32_t first = 0;
  for (size_t i = 0; i < 4; ++i) {
    if (decoder.Elements(instruction.operands[i], 4, i == 0, op) != registers[i]) {
      decoder.Fail(instruction.operands[i],
                   "expected a vector of " + std::to_string(registers[i]) + " registers");
    }
    if (i == 0) first = op->first;
  }
  op->first = first;
  op->count = 2 * kSums + depth / 4 + depth / 8;
  op->small = static_cast<uint8_t>(depth);
  op->converged = true;
  op->run =
      type == "bf16" ? Handler(Multiply<ElementType::kBF16>) : Handler(Multiply<ElementType::kF16>);
}

}  // namespace

void RegisterMma(InstructionTable* table) { (*table)["mma"] = DecodeMma; }

}  // namespace jax_fa4::emulator
