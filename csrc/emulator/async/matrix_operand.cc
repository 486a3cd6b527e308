#include "emulator/async/matrix_operand.h"

#include "emulator/async/tensor_core.h"

namespace jax_fa4::emulator {
namespace {

OperandLayout ReadLayout(uint64_t descriptor) {
  OperandLayout layout;
  layout.start = static_cast<uint32_t>(descriptor & 0x3fff) << 4;
  layout.leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) << 4;
  layout.stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) << 4;
  const uint32_t swizzle = static_cast<uint32_t>(descriptor >> 61);
  layout.bits = swizzle == 2 ? 3 : swizzle == 4 ? 2 : swizzle == 6 ? 1 : 0;
  return layout;
}

}  // namespace

void WidenChunk(const uint8_t* from, int count, int element_bytes, int step, uint16_t* out) {
  if (element_bytes == 1) {
    for (int i = 0; i < count; ++i) out[i * step] = from[i];
    return;
  }
  if (element_bytes == 4) {
    for (int i = 0; i < count; ++i) std::memcpy(out + 2 * i * step, from + 4 * i, 4);
    return;
  }
  uint16_t elements[kOperandChunk / 2];
  std::memcpy(elements, from, static_cast<size_t>(count) * 2);
  for (int i = 0; i < count; ++i) out[i * step] = elements[i];
}

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
  addresses->clear();
  ForOperandChunks(ReadLayout(descriptor), shape,
                   [&](uint32_t address, int, int, int) { addresses->push_back(address); });
}

std::string ReadOperand(const Cta& cta, uint64_t descriptor, const OperandShape& shape,
                        int row_step, int depth_step, uint16_t* out) {
  std::string wrong;
  const int step = shape.transposed ? row_step : depth_step;
  const auto read = [&](uint32_t address, int row, int k, int count) {
    const size_t bytes = static_cast<size_t>(count * shape.element_bytes);
    if (!wrong.empty()) return;
    if (address < kSharedBase || address + bytes > cta.shared_end) {
      wrong = "address " + std::to_string(address) + " is outside the CTA's";
    } else if (std::memchr(cta.shared_initialised.data() + address, 0, bytes) != nullptr) {
      wrong = "nothing has written address " + std::to_string(address);
    } else {
      WidenChunk(cta.shared.data() + address, count, shape.element_bytes, step,
                 out + (row * row_step + k * depth_step) * ElementPlaces(shape.element_bytes));
    }
  };
  ForOperandChunks(ReadLayout(descriptor), shape, read);
  return wrong;
}

}  // namespace jax_fa4::emulator
