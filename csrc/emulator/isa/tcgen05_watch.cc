// What a tcgen05.mma touches, for the race detector.
#include "emulator/async/matrix_operand.h"
#include "emulator/check/tensor_watch.h"
#include "emulator/isa/tcgen05_mma.h"

namespace jax_fa4::emulator {
namespace {

// The same for products that are in order: of one shape and accumulator (PTX ISA 9.7.16.6.2).
uint32_t PipelineOf(const Mma& mma) {
  return 1u << 31 | (mma.ctas.size() == 2 ? 1u << 30 : 0) | mma.ctas[0]->rank << 26 |
         static_cast<uint32_t>(mma.shape.rows / 16) << 20 |
         static_cast<uint32_t>(mma.shape.columns / 8) << 12 | TensorLane(mma.d) / 16 << 10 |
         TensorColumn(mma.d);
}

}  // namespace

void WatchMma(Warp& warp, int lane, const Mma& mma) {
  if (warp.machine->races == nullptr) return;
  WatchedProduct watched(warp, lane, PipelineOf(mma));
  const Description& shape = mma.shape;
  std::vector<uint32_t> addresses;
  if (!mma.a_in_tensor_memory) {
    OperandChunks(mma.a, {mma.rows(), mma.depth(), ElementBytes(shape.a_type), shape.transpose_a},
                  &addresses);
    for (Cta* cta : mma.ctas) watched.ReadShared(*cta, addresses);
  }
  const int share = shape.columns / static_cast<int>(mma.ctas.size());
  OperandChunks(mma.b, {share, mma.depth(), ElementBytes(shape.b_type), shape.transpose_b},
                &addresses);
  for (Cta* cta : mma.ctas) watched.ReadShared(*cta, addresses);
  TensorCells d, a;
  d.column = TensorColumn(mma.d);
  d.columns = static_cast<uint32_t>(shape.columns) / (Folded(mma) ? 2 : 1);
  a.column = TensorColumn(static_cast<uint32_t>(mma.a));
  a.columns = 8;
  if (mma.rows() == 64 && !Folded(mma)) {
    d.lanes = TensorLane(mma.d) == 0 ? 0x3 : 0xc;
    a.lanes = TensorLane(static_cast<uint32_t>(mma.a)) == 0 ? 0x3 : 0xc;
  }
  if (Folded(mma)) a.quadrants = 0x3;
  for (Cta* cta : mma.ctas) {
    if (mma.a_in_tensor_memory) watched.Read(*cta, a);
    watched.Write(*cta, d);
  }
}

}  // namespace jax_fa4::emulator
