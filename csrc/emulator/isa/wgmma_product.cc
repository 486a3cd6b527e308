// What a warp does of a wgmma.mma_async when it takes effect (PTX ISA, "wgmma.mma_async").
#include "emulator/isa/wgmma_product.h"

#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {

OperandShape ShapeOfA(const Warp& warp, const WgmmaShape& shape) {
  return {kWgmmaWarpRows, shape.depth(), shape.element_bytes(), shape.transpose_a,
          warp.index % 4 * kWgmmaWarpRows};
}

OperandShape ShapeOfB(const WgmmaShape& shape) {
  return {shape.columns, shape.depth(), shape.element_bytes(), shape.transpose_b};
}

namespace {

constexpr int kMaxColumns = 256;

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
void LoadA(Warp& warp, const WgmmaShape& shape, const OperandLayout& layout,
           const uint32_t* registers, Unpacked* out) {
  const int size = shape.element_bytes(), depth = shape.depth();
  uint16_t bits[kWgmmaWarpRows * kWgmmaRowBytes];
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
  Unpack(shape.a_type, bits, static_cast<size_t>(kWgmmaWarpRows * depth), out);
  if (shape.negate_a) Negate(out);
}

void LoadB(Warp& warp, const WgmmaShape& shape, const OperandLayout& layout, Unpacked* out) {
  uint16_t bits[kWgmmaRowBytes * kMaxColumns];
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

}  // namespace

void ComputeWgmma(Warp& warp, const WgmmaOperands& operands) {
  const WgmmaShape& shape = operands.shape;
  Unpacked a, b;
  LoadA(warp, shape, operands.a, operands.registers.data(), &a);
  LoadB(warp, shape, operands.b, &b);
  float d[kWgmmaWarpRows * kMaxColumns];
  const Slot* slots = warp.machine->program.slots.data() + operands.op->first;
  (shape.half ? ReadHalfAccumulator : ReadAccumulator)(warp, slots, shape.columns, d);
  Product product = {shape.a_type,
                     shape.b_type,
                     kWgmmaWarpRows,
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

}  // namespace jax_fa4::emulator
