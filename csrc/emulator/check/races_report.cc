// The words of a race: both parties, and the edge that is missing between them.
#include "emulator/check/races.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {
namespace {

std::string HexOf(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string WarpName(const Access& access) { return "warp " + std::to_string(access.warp); }

}  // namespace

std::string RaceDetector::Describe(const Access& access) const {
  const Instruction& instruction = *machine_->program.ops[access.pc].source;
  std::string text = "CTA " + std::to_string(access.cta) + " " + WarpName(access) + "'s " +
                     (access.async ? "asynchronous " : "") + (access.write ? "write" : "read") +
                     " by " + instruction.text + ", PTX line " +
                     std::to_string(instruction.where.line);
  const auto file = machine_->program.module.files.find(instruction.where.file);
  if (file != machine_->program.module.files.end()) {
    text += ", " + file->second + ":" + std::to_string(instruction.where.source_line);
  }
  return text;
}

// What the reader of the report should have waited for to see `earlier` done.
std::string RaceDetector::NotWaited(const Access& earlier) {
  const Channel& channel = channels_[earlier.entity - clocks_.size()];
  switch (channel.kind) {
    case ChannelKind::kMbarrier:
      return "a wait for the phase of the mbarrier at shared address " + HexOf(channel.key) +
             " on which that copy completes";
    case ChannelKind::kBulkRead:
      return "a cp.async.bulk.wait_group[.read] by the thread that issued it";
    case ChannelKind::kBulkWrite:
      return "a cp.async.bulk.wait_group by the thread that issued it";
    case ChannelKind::kProducts:
      return "a wgmma.wait_group by " + WarpName(earlier);
  }
  return std::string();
}

std::string RaceDetector::MissingEdge(const Access& earlier, const Party& later) {
  if (earlier.cluster != cluster_) return "CTAs of different clusters are not ordered";
  const ProxyClocks& own = ClocksOf(*later.warp);
  if (earlier.entity >= clocks_.size()) {
    const uint32_t issuer = channels_[earlier.entity - clocks_.size()].cta_rank *
                                static_cast<uint32_t>(later.warp->cta->warps.size()) +
                            static_cast<uint32_t>(earlier.warp);
    const bool mbarrier = channels_[earlier.entity - clocks_.size()].kind == ChannelKind::kMbarrier;
    if (!mbarrier && earlier.time <= clocks_[issuer].generic[earlier.entity]) {
      return WarpName(earlier) +
             " has waited for its completion, but nothing that it released afterwards was "
             "acquired here";
    }
    return "missing: " + NotWaited(earlier);
  }
  if (later.async && earlier.time <= own.generic[earlier.entity]) {
    return "missing: fence.proxy.async between the two, which use different proxies";
  }
  return "missing: a barrier or mbarrier that " + WarpName(earlier) +
         " arrives at afterwards and that warp " + std::to_string(later.warp->index) +
         " waits for before";
}

void RaceDetector::ReportRace(const Access& earlier, const Party& later, int lane, bool shared,
                              uint64_t address) {
  const std::string what = std::string(later.async ? "an asynchronous " : "a ") +
                           (later.write ? "write to " : "read of ") +
                           (shared ? "shared" : "global") + " address " + HexOf(address) +
                           " is not ordered after " + Describe(earlier) + "; " +
                           MissingEdge(earlier, later);
  later.warp->Report("race", what, lane);
}

}  // namespace jax_fa4::emulator
