#include "emulator/check/registers.h"

#include <algorithm>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

void RegisterChecker::ReportBusy(Warp& warp, uint32_t index) {
  warp.Report("register-in-flight", "register " + warp.machine->program.register_names[index] +
                                        " belongs to a matrix product under way; missing: "
                                        "wgmma.wait_group for its group");
}

void RegisterChecker::CheckInitialised(Warp& warp, uint32_t index) {
  const uint32_t missing = warp.exec & ~initialised_[index];
  if (missing == 0) return;
  warp.Report("uninitialised",
              "a read of register " + warp.machine->program.register_names[index] +
                  ", which has no value here",
              __builtin_ctz(missing));
}

void RegisterChecker::Check(Warp& warp, const OpRegisters& registers) {
  const bool product = registers.kind == OpRegisters::kProduct;
  const uint32_t reads = product ? registers.plain_reads : registers.reads;
  const uint32_t* index = warp.machine->program.registers.data() + registers.first;
  uint32_t known = warp.exec;
  for (uint32_t i = 0; i < reads; ++i, ++index) {
    if (product_[*index] > waited_) ReportBusy(warp, *index);
    touched_[*index] = fences_ + 1;
    // A copy of nothing is nothing; what computes with it is wrong.
    if (registers.kind == OpRegisters::kCopy) {
      known &= initialised_[*index];
    } else {
      CheckInitialised(warp, *index);
    }
  }
  if (product) return;
  for (uint32_t i = 0; i < registers.writes; ++i, ++index) {
    if (product_[*index] > waited_) ReportBusy(warp, *index);
    touched_[*index] = fences_ + 1;
    initialised_[*index] = (initialised_[*index] & ~warp.exec) | known;
  }
}

void RegisterChecker::StartProduct(Warp& warp, const OpRegisters& registers, bool accumulates) {
  const Program& program = warp.machine->program;
  if (fences_ == 0) {
    warp.Report("wgmma-fence", "the first product of the warp comes before any wgmma.fence");
  }
  const uint32_t* index = program.registers.data() + registers.first;
  const uint32_t count = uint32_t{registers.reads} + registers.writes;
  for (uint32_t i = registers.plain_reads; i < count; ++i) {
    if (touched_[index[i]] == fences_ + 1) {
      warp.Report("wgmma-fence", "register " + program.register_names[index[i]] +
                                     " was used after the last wgmma.fence; missing: a "
                                     "wgmma.fence between that and this product");
    }
    const bool accumulator = i >= registers.reads;
    if (!accumulator || accumulates) CheckInitialised(warp, index[i]);
    // Products of one shape may share accumulators; reading A's registers twice is harmless too.
    const uint16_t accumulators = accumulator ? registers.writes : 0;
    const bool busy = product_[index[i]] > waited_;
    if (busy && accumulators_[index[i]] != accumulators) ReportBusy(warp, index[i]);
    product_[index[i]] = group();
    accumulators_[index[i]] = accumulators;
    if (accumulator) initialised_[index[i]] |= warp.exec;
  }
}

uint32_t RegisterChecker::WaitProducts(uint32_t pending) {
  if (groups_ > pending) waited_ = std::max(waited_, groups_ - pending);
  return waited_;
}

}  // namespace jax_fa4::emulator
