// The 32-bit instruction descriptor of tcgen05.mma (PTX ISA, "Instruction descriptor").
#include "emulator/isa/tcgen05_mma.h"

namespace jax_fa4::emulator {
namespace {

ElementType TypeOf(MmaKind kind, uint32_t field, const Origin& origin) {
  if (kind == MmaKind::kF16 && field < 2) {
    return field == 0 ? ElementType::kF16 : ElementType::kBF16;
  }
  if (kind == MmaKind::kTF32 && field == 2) return ElementType::kTF32;
  if (kind == MmaKind::kF8F6F4 && field < 2) {
    return field == 0 ? ElementType::kE4M3 : ElementType::kE5M2;
  }
  origin.Report("descriptor", "element type " + std::to_string(field) +
                                  " of the instruction descriptor is not supported");
}

// Table 39 of the manual, and Table 52 for B of 8 bits whose columns are contiguous.
void CheckShape(const Description& d, int ctas, const Origin& origin) {
  const int step = (d.transpose_b && ElementBytes(d.b_type) == 1 ? 16 : 8) * ctas;
  const bool rows_known = d.rows == 64 * ctas || d.rows == 128 * ctas;
  if (rows_known && d.columns >= step && d.columns <= 256 && d.columns % step == 0) return;
  origin.Report("descriptor", "M = " + std::to_string(d.rows) +
                                  ", N = " + std::to_string(d.columns) + " for " +
                                  std::to_string(ctas) + " CTAs");
}

}  // namespace

Description ReadDescription(uint32_t bits, MmaKind kind, int ctas, const Origin& origin) {
  if ((bits & 0xf) != 0) origin.Report("descriptor", "sparse or saturating products");
  if ((bits >> 5 & 3) != 0) origin.Report("descriptor", "an accumulator that is no float");
  if ((bits >> 23 & 1) != 0 || (bits >> 29 & 1) != 0) {
    origin.Report("descriptor", "a reserved bit is set");
  }
  if (bits >> 30 != 0) origin.Report("descriptor", "a shift of B's rows");
  Description d;
  d.half = (bits >> 4 & 1) == 0;
  d.a_type = TypeOf(kind, bits >> 7 & 7, origin);
  d.b_type = TypeOf(kind, bits >> 10 & 7, origin);
  d.negate_a = (bits >> 13 & 1) != 0;
  d.negate_b = (bits >> 14 & 1) != 0;
  d.transpose_a = (bits >> 15 & 1) != 0;
  d.transpose_b = (bits >> 16 & 1) != 0;
  d.columns = static_cast<int>(bits >> 17 & 0x3f) * 8;
  d.rows = static_cast<int>(bits >> 24 & 0x1f) * 16;
  const auto is = [&](ElementType type) { return d.a_type == type || d.b_type == type; };
  if (d.half && (is(ElementType::kBF16) || is(ElementType::kTF32))) {
    origin.Report("descriptor", "a float16 accumulator of these elements");
  }
  if (kind == MmaKind::kTF32 && (d.transpose_a || d.transpose_b)) {
    // It takes the swizzle of 128 bytes by 32, which CheckDescriptor refuses.
    origin.Report("descriptor", "a transposed operand of 32 bits is not supported");
  }
  CheckShape(d, ctas, origin);
  return d;
}

}  // namespace jax_fa4::emulator
