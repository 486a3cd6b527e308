// setmaxnreg (PTX ISA 9.7.19.5): moves registers between a warp and its CTA's pool. Values are not
// touched; who must wait for registers, and who may not ask for them, is what matters here.
#include <algorithm>

#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

constexpr uint64_t kRegisters = 65536;  // of an SM
constexpr uint64_t kMostRegisters = 256;
constexpr int kWarpsOfGroup = 4;

// Registers of a thread at launch, as compilers choose them where setmaxnreg is used: all there
// are.
int64_t LaunchRegisters(const Warp& warp) {
  const uint64_t threads = warp.machine->launch.block.Count();
  return static_cast<int64_t>(std::min(kMostRegisters, kRegisters / threads / 8 * 8));
}

// All warps of a warpgroup execute the same setmaxnreg, says the text. Working kernels give the
// four warps of one different numbers.
void CheckGroup(Warp& warp, uint32_t count) {
  if (warp.machine->options.level == Level::kHardware) return;
  const size_t turn = warp.register_counts.size();
  for (const auto& other : warp.cta->warps) {
    if (other->index / kWarpsOfGroup != warp.index / kWarpsOfGroup) continue;
    if (other->register_counts.size() <= turn || other->register_counts[turn] == count) continue;
    warp.Report("setmaxnreg", std::to_string(count) + " registers where warp " +
                                  std::to_string(other->index) +
                                  " of the same warpgroup asks for " +
                                  std::to_string(other->register_counts[turn]));
  }
}

// op.immediate = count; op.small = 1: inc.
Step SetMaxRegisters(Warp& warp, const Op& op) {
  const int64_t count = op.immediate;
  const bool known = !warp.register_counts.empty();
  const int64_t old = known ? warp.register_counts.back() : LaunchRegisters(warp);
  CheckGroup(warp, static_cast<uint32_t>(count));
  if (known && (op.small != 0 ? count < old : count > old)) {
    warp.Report("setmaxnreg", std::string(op.small != 0 ? ".inc" : ".dec") + " from " +
                                  std::to_string(old) + " to " + std::to_string(count));
  }
  if (warp.registers != nullptr && warp.registers->ProductsUnderWay()) {
    warp.Report("setmaxnreg",
                "registers belong to matrix products under way; missing: wgmma.wait_group");
  }
  const int64_t more = (count - old) * 32;
  if (more > warp.cta->register_pool && op.small != 0) {
    return warp.Wait("setmaxnreg.inc: waits for " + std::to_string(more) + " registers; " +
                     std::to_string(warp.cta->register_pool) + " are free");
  }
  warp.cta->register_pool -= more;
  warp.register_counts.push_back(static_cast<uint32_t>(count));
  ++warp.machine->version;
  return Step::kNext;
}

void DecodeSetmaxnreg(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  op->small = modifiers.OneOf({"inc", "dec"}) == "inc" ? 1 : 0;
  modifiers.OneOf({"sync"});
  modifiers.OneOf({"aligned"});
  modifiers.OneOf({"u32"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 1);
  const uint64_t count = decoder.Immediate(instruction.operands[0]);
  if (count < 24 || count > 256 || count % 8 != 0) {
    decoder.Fail(instruction, "the count must be a multiple of 8 from 24 to 256");
  }
  op->immediate = static_cast<int64_t>(count);
  op->run = SetMaxRegisters;
  op->converged = true;
}

}  // namespace

void RegisterSetmaxnreg(InstructionTable* table) { (*table)["setmaxnreg"] = DecodeSetmaxnreg; }

}  // namespace jax_fa4::emulator
