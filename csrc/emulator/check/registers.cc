#include "emulator/check/registers.h"

#include <algorithm>

#include "emulator/check/tensor_watch.h"
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

// What a tcgen05.ld gives is used: the load is done, and with it all before it that are.
void RegisterChecker::UseLoad(Warp& warp, uint32_t load) {
  if (load <= loads_done_ || warp.machine->options.level == Level::kPtx) return;
  loads_pending_[load - loads_done_ - 1] = false;
  while (!loads_pending_.empty() && !loads_pending_.front()) {
    loads_pending_.pop_front();
    ++loads_done_;
  }
  WatchTensorLoads(warp, loads_done_);
}

// A copy only passes it on: it may be no instruction at all. Returns the load that is passed on.
uint32_t RegisterChecker::PassLoad(Warp& warp, uint32_t index, uint32_t passed) {
  const uint32_t load = load_[index];
  if (load <= loads_done_) return passed;
  if (passed != 0 && passed != load) UseLoad(warp, std::min(passed, load));
  return std::max(passed, load);
}

void RegisterChecker::OverwriteLoaded(Warp& warp, uint32_t index, uint32_t passed) {
  if (load_[index] > loads_done_ && warp.machine->options.level == Level::kPtx) {
    warp.Report("register-in-flight", "register " + warp.machine->program.register_names[index] +
                                          " is written while a tcgen05.ld may still write it; "
                                          "missing: tcgen05.wait::ld");
  }
  UseLoad(warp, load_[index]);
  load_[index] = warp.machine->options.level == Level::kPtx ? 0 : passed;
}

void RegisterChecker::StartLoad(Warp& warp, const OpRegisters& registers, uint32_t load) {
  const uint32_t* index = warp.machine->program.registers.data() + registers.first;
  for (uint32_t i = 0; i < registers.writes; ++i) load_[index[registers.reads + i]] = load;
  loads_pending_.push_back(true);
}

void RegisterChecker::FinishLoads() {
  loads_done_ += static_cast<uint32_t>(loads_pending_.size());
  loads_pending_.clear();
}

bool RegisterChecker::CarriesLack(const Warp& warp) {
  return warp.machine->options.level == Level::kHardware;
}

// Reads: [the guard,] what is exchanged, and how.
uint32_t RegisterChecker::LanesWithValue(const Warp& warp, const OpRegisters& registers) const {
  const uint32_t guard = warp.op().guard != kNoSlot ? 1 : 0;
  return initialised_[warp.machine->program.registers[registers.first + guard]];
}

void RegisterChecker::Exchange(Warp& warp, const OpRegisters& registers, uint32_t known) {
  const uint32_t* index = warp.machine->program.registers.data() + registers.first;
  for (uint32_t i = 0; i < registers.writes; ++i) {
    uint32_t& lanes = initialised_[index[registers.reads + i]];
    lanes = (lanes & ~warp.exec) | known;
  }
}

// Lanes that get a value: what they do not choose need not have one. Reads: [the guard, a, b,] the
// predicate, of which a and b may be numbers instead.
uint32_t RegisterChecker::KnownOfSelect(Warp& warp, const OpRegisters& registers) const {
  const Program& program = warp.machine->program;
  const Op& op = warp.op();
  if (registers.reads == 0) return ~0u;
  const uint32_t* index = program.registers.data() + registers.first;
  const uint32_t* const last = index + registers.reads - 1;
  if (op.guard != kNoSlot) ++index;
  const auto known = [&](const Operand& operand) {
    const bool read = index < last && program.register_names[*index] == operand.name;
    return read ? initialised_[*index++] : ~0u;
  };
  const uint32_t a = known(op.source->operands[1]);
  const uint32_t b = known(op.source->operands[2]);
  const uint32_t chosen = warp.Predicate(op.c);
  return initialised_[*last] & ((a & chosen) | (b & ~chosen));
}

void RegisterChecker::Check(Warp& warp, const OpRegisters& registers) {
  const bool product = registers.kind == OpRegisters::kProduct;
  const bool passes =
      registers.kind == OpRegisters::kCopy || registers.kind == OpRegisters::kSelect;
  const bool carries = registers.kind == OpRegisters::kArithmetic && CarriesLack(warp);
  const bool exchanges = registers.kind == OpRegisters::kExchange && CarriesLack(warp);
  const uint32_t exchanged = warp.op().guard != kNoSlot ? 1 : 0;
  const uint32_t reads = product ? registers.plain_reads : registers.reads;
  const uint32_t* index = warp.machine->program.registers.data() + registers.first;
  uint32_t known = warp.exec;
  const bool loads = !loads_pending_.empty();
  uint32_t passed = 0;
  for (uint32_t i = 0; i < reads; ++i, ++index) {
    if (product_[*index] > waited_) ReportBusy(warp, *index);
    touched_[*index] = fences_ + 1;
    // A copy of nothing is nothing; what computes with it is wrong.
    if (passes) {
      if (loads) passed = PassLoad(warp, *index, passed);
      known &= initialised_[*index];
      continue;
    }
    if (loads) UseLoad(warp, load_[*index]);
    if (exchanges && i == exchanged) continue;
    // At level kHardware arithmetic too carries the lack on, to where something depends on it.
    if (carries && i >= exchanged) {
      known &= initialised_[*index];
    } else {
      CheckInitialised(warp, *index);
    }
  }
  if (product) return;
  if (registers.kind == OpRegisters::kSelect) known = warp.exec & KnownOfSelect(warp, registers);
  for (uint32_t i = 0; i < registers.writes; ++i, ++index) {
    if (product_[*index] > waited_) ReportBusy(warp, *index);
    if (loads) OverwriteLoaded(warp, *index, passed);
    touched_[*index] = fences_ + 1;
    if (!exchanges) initialised_[*index] = (initialised_[*index] & ~warp.exec) | known;
  }
}

void RegisterChecker::StartProduct(Warp& warp, const OpRegisters& registers, bool accumulates) {
  const Program& program = warp.machine->program;
  if (fences_ == 0) {
    warp.Report("wgmma-fence", "the first product of the warp comes before any wgmma.fence");
  }
  last_product_ = group();
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
