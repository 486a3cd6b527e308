// Registers of a warp: which lanes have a value, and which registers belong to a matrix product
// under way (PTX ISA 9.7.15.7: an access before wgmma.wait_group, or a product after an access
// without wgmma.fence, is undefined), and which of them a tcgen05.ld gives: their use shows the
// load done at level kHardware, as scoreboards see to it; by the text (9.7.16.6.4.5) only
// tcgen05.wait::ld does.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "emulator/machine/program.h"

namespace jax_fa4::emulator {

class RegisterChecker {
 public:
  explicit RegisterChecker(const Program& program)
      : initialised_(program.register_names.size(), 0),
        product_(program.register_names.size(), 0),
        accumulators_(program.register_names.size(), 0),
        touched_(program.register_names.size(), 0),
        load_(program.register_names.size(), 0) {}

  // Before every instruction.
  void Check(Warp& warp, const OpRegisters& registers);

  // Whether arithmetic and shfl carry on that a lane's register has no value. If so, shfl tells
  // which lanes it gave a value, of those that LanesWithValue has.
  static bool CarriesLack(const Warp& warp);
  uint32_t LanesWithValue(const Warp& warp, const OpRegisters& registers) const;
  void Exchange(Warp& warp, const OpRegisters& registers, uint32_t known);

  // A wgmma.mma_async: `reads` are A's registers, `writes` the accumulator's.
  void StartProduct(Warp& warp, const OpRegisters& registers, bool accumulates);
  void FenceProducts() { ++fences_; }
  void CommitProducts() { ++groups_; }
  // All but the last `pending` groups are complete; returns how many that are.
  uint32_t WaitProducts(uint32_t pending);
  // Whether no wgmma.wait_group covers the last of them.
  bool ProductsUnderWay() const { return last_product_ > waited_; }
  // Number of the group that a product issued now belongs to, from 1 on.
  uint32_t group() const { return groups_ + 1; }

  // A tcgen05.ld, number `load` from 1 on, that gives the registers it writes; tcgen05.wait::ld.
  void StartLoad(Warp& warp, const OpRegisters& registers, uint32_t load);
  void FinishLoads();

 private:
  void CheckInitialised(Warp& warp, uint32_t index);
  uint32_t KnownOfSelect(Warp& warp, const OpRegisters& registers) const;
  [[noreturn]] void ReportBusy(Warp& warp, uint32_t index);
  void UseLoad(Warp& warp, uint32_t load);
  uint32_t PassLoad(Warp& warp, uint32_t index, uint32_t passed);
  void OverwriteLoaded(Warp& warp, uint32_t index, uint32_t passed);

  std::vector<uint32_t> initialised_;   // lanes
  std::vector<uint32_t> product_;       // group of the last product that uses it, or 0
  std::vector<uint16_t> accumulators_;  // if its last product used it so: their number, else 0
  std::vector<uint32_t> touched_;       // wgmma.fences before the last ordinary access, plus one
  uint32_t fences_ = 0;
  uint32_t groups_ = 0;
  uint32_t waited_ = 0;
  uint32_t last_product_ = 0;       // its group
  std::vector<uint32_t> load_;      // number of the tcgen05.ld that gave it, or 0
  uint32_t loads_done_ = 0;         // all up to this number
  std::deque<bool> loads_pending_;  // of those after it: whether nothing has used them
};

}  // namespace jax_fa4::emulator
