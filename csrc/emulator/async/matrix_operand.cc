#include "emulator/async/matrix_operand.h"

namespace jax_fa4::emulator {
namespace {

constexpr uint32_t kChunk = 16;  // bytes that stay together, whatever the swizzle

struct Layout {
  uint32_t start, leading, stride;
  uint32_t bits;  // log2 of the swizzle's width in chunks: 0, 1 (32 bytes), 2 (64), 3 (128)
};

Layout ReadLayout(uint64_t descriptor) {
  Layout layout;
  layout.start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  layout.leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  layout.stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t swizzle = static_cast<uint32_t>(descriptor >> 61);
  layout.bits = swizzle == 2 ? 3 : swizzle == 4 ? 2 : swizzle == 6 ? 1 : 0;
  return layout;
}

// Offset of a row's chunk `k` where K is contiguous.
uint32_t KMajor(const Layout& layout, uint32_t row, uint32_t k) {
  if (layout.bits == 0) return row % 8 * 16 + row / 8 * layout.stride + k * layout.leading;
  return row % 8 * (kChunk << layout.bits) + row / 8 * layout.stride + k * kChunk;
}

// Offset of chunk `row` of rows at depth `k` where the rows are contiguous.
uint32_t RowMajor(const Layout& layout, uint32_t row, uint32_t k) {
  const uint32_t width = 1u << layout.bits;
  if (layout.bits == 0) return row * layout.stride + k % 8 * kChunk + k / 8 * layout.leading;
  return row % width * kChunk + row / width * layout.leading + k % 8 * width * kChunk +
         k / 8 * layout.stride;
}

uint32_t ChunkAddress(const Layout& layout, const OperandShape& shape, int i, int k) {
  const uint32_t row = static_cast<uint32_t>(i), depth = static_cast<uint32_t>(k);
  const uint32_t address =
      layout.start + (shape.transposed ? RowMajor(layout, row, depth) : KMajor(layout, row, depth));
  return address ^ (address >> 7 & ((1u << layout.bits) - 1)) << 4;
}

}  // namespace

std::string CheckDescriptor(uint64_t descriptor) {
  const uint32_t swizzle = static_cast<uint32_t>(descriptor >> 61);
  if (swizzle == 1 || swizzle == 3 || swizzle == 5 || swizzle == 7) {
    return "swizzle " + std::to_string(swizzle) + " of a matrix descriptor";
  }
  if ((descriptor >> 46 & 3) != 1) return "a matrix descriptor whose version is not 1";
  if ((descriptor >> 49 & 7) != 0) return "a base offset in a matrix descriptor";
  if ((descriptor >> 52 & 1) != 0) return "absolute strides in a matrix descriptor";
  return std::string();
}

void OperandChunks(uint64_t descriptor, const OperandShape& shape,
                   std::vector<uint32_t>* addresses) {
  const Layout layout = ReadLayout(descriptor);
  const int elements = static_cast<int>(kChunk) / shape.element_bytes;
  const int outer = shape.transposed ? (shape.rows + elements - 1) / elements : shape.rows;
  const int inner = shape.transposed ? shape.depth : shape.depth / elements;
  addresses->clear();
  for (int i = 0; i < outer; ++i) {
    for (int k = 0; k < inner; ++k) {
      addresses->push_back(ChunkAddress(layout, shape, i, k));
    }
  }
}

std::string ReadOperand(const Cta& cta, uint64_t descriptor, const OperandShape& shape,
                        int row_step, int depth_step, uint16_t* out) {
  const Layout layout = ReadLayout(descriptor);
  const int elements = static_cast<int>(kChunk) / shape.element_bytes;
  const int outer = shape.transposed ? (shape.rows + elements - 1) / elements : shape.rows;
  const int inner = shape.transposed ? shape.depth : shape.depth / elements;
  const int step = shape.transposed ? row_step : depth_step;
  for (int i = 0; i < outer; ++i) {
    for (int k = 0; k < inner; ++k) {
      const uint32_t address = ChunkAddress(layout, shape, i, k);
      const int count = shape.transposed ? std::min(elements, shape.rows - i * elements) : elements;
      const size_t bytes = static_cast<size_t>(count * shape.element_bytes);
      if (address < kSharedBase || address + bytes > cta.shared_end) {
        return "address " + std::to_string(address) + " is outside the CTA's";
      }
      if (std::memchr(cta.shared_initialised.data() + address, 0, bytes) != nullptr) {
        return "nothing has written address " + std::to_string(address);
      }
      const uint8_t* from = cta.shared.data() + address;
      uint16_t* to = out + (shape.transposed ? i * elements * row_step + k * depth_step
                                             : i * row_step + k * elements * depth_step);
      for (int e = 0; e < count; ++e) {
        to[e * step] = shape.element_bytes == 1
                           ? from[e]
                           : static_cast<uint16_t>(from[2 * e] | from[2 * e + 1] << 8);
      }
    }
  }
  return std::string();
}

}  // namespace jax_fa4::emulator
