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

// Of a word of a shadow.
std::string PlaceName(ShadowSpace space, uint64_t address) {
  if (space == ShadowSpace::kTensor) {
    const uint64_t lane = address / kTensorColumns * 32;
    return "tensor memory lanes " + std::to_string(lane) + " to " + std::to_string(lane + 31) +
           ", column " + std::to_string(address % kTensorColumns);
  }
  return (space == ShadowSpace::kShared ? "shared address " : "global address ") + HexOf(address);
}

// Of what another lane's arrival did not give on.
std::string NotMet(const Access& earlier) {
  return "missing: bar.warp.sync after it, before another lane of " + WarpName(earlier) +
         " arrives at a barrier for it";
}

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
  const Channel& channel = ChannelOf(earlier);
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
    case ChannelKind::kCopies:
      return "a cp.async.wait_group or wait_all by the thread that issued it";
    case ChannelKind::kTensorProducts:
      return "a wait for an mbarrier at which a later tcgen05.commit of the issuing thread arrives";
    case ChannelKind::kTensorLoads:
      return "a tcgen05.wait::ld by " + WarpName(earlier);
    case ChannelKind::kTensorStores:
      return "a tcgen05.wait::st by " + WarpName(earlier);
  }
  return std::string();
}

std::string RaceDetector::MissingEdge(const Access& earlier, const Party& later, int lane) {
  if (earlier.cluster != cluster_) return "CTAs of different clusters are not ordered";
  const ProxyClocks& own = ClocksOf(*later.warp);
  if (earlier.time <= own.async[earlier.entity] && !LanesMet(earlier, later)) {
    return "missing: bar.warp.sync after it, before another lane of " + WarpName(earlier) +
           " starts this";
  }
  const ProxyClocks& known = KnownTo(earlier, later, lane);
  const auto covers = [&](const ProxyClocks& clocks) {
    return earlier.time <= (later.async ? clocks.async : clocks.generic)[earlier.entity];
  };
  if (covers(own) && !covers(known)) {
    return "missing: bar.warp.sync after another lane of warp " +
           std::to_string(later.warp->index) + " has waited for it, before this one's access";
  }
  if (later.async && !earlier.async && earlier.time <= own.generic[earlier.entity]) {
    return "missing: fence.proxy.async between the two, which use different proxies";
  }
  if (earlier.entity >= clocks_.size()) {
    const uint32_t issuer = IssuerOf(earlier, later);
    const bool mbarrier = ChannelOf(earlier).kind == ChannelKind::kMbarrier;
    if (!mbarrier && earlier.time <= clocks_[issuer].generic[earlier.entity]) {
      return WarpName(earlier) +
             " has waited for its completion, but nothing that it released afterwards was "
             "acquired here";
    }
    return "missing: " + NotWaited(earlier);
  }
  if (earlier.time <= apart_[earlier.entity].withheld) return NotMet(earlier);
  return "missing: a barrier or mbarrier that " + WarpName(earlier) +
         " arrives at afterwards and that warp " + std::to_string(later.warp->index) +
         " waits for before";
}

uint32_t RaceDetector::IssuerOf(const Access& access, const Party& later) const {
  return ChannelOf(access).cta_rank * static_cast<uint32_t>(later.warp->cta->warps.size()) +
         static_cast<uint32_t>(access.warp);
}

std::string RaceDetector::MissingTensorEdge(const Access& earlier, const Party& later) {
  const uint32_t issuer = IssuerOf(earlier, later);
  const auto covers = [&](const Clock& clock) { return earlier.time <= clock[earlier.entity]; };
  const bool fences = machine_->options.level == Level::kPtx;
  if (fences && covers(relayed_tensor_[Index(*later.warp)])) {
    return "missing: a tcgen05.fence::after_thread_sync before this instruction";
  }
  if (!covers(clocks_[issuer].tensor) || issuer == Index(*later.warp)) {
    return "missing: " + NotWaited(earlier);
  }
  if (fences && !covers(relayed_tensor_[issuer])) {
    return "missing: a tcgen05.fence::before_thread_sync in " + WarpName(earlier) +
           ", after its wait and before it releases";
  }
  if (earlier.issued <= apart_[issuer].withheld) return NotMet(earlier);
  return WarpName(earlier) +
         " has waited for its completion, but nothing that it released afterwards was acquired "
         "here";
}

void RaceDetector::CheckExit(Warp& warp) {
  Clock known;  // by anybody
  for (const ProxyClocks& clocks : clocks_) known.Join(clocks.generic);
  const bool may_leave_stores = machine_->options.level == Level::kHardware;
  AccessId passed = 0;
  const auto check = [&](AccessId id) {
    const Access& access = accesses_[id];
    if (id == passed || access.entity < clocks_.size()) return;
    passed = id;
    const ChannelKind kind = ChannelOf(access).kind;
    if (kind == ChannelKind::kBulkRead && may_leave_stores) return;
    if (access.time <= known[access.entity]) return;
    warp.Report("unfinished", "the CTA exits while " + Describe(access) +
                                  " may be under way; missing: " + NotWaited(access));
  };
  const ShadowWords& shadow = shared_[warp.cta->rank];
  for (AccessId writer : shadow.writer) {
    if (writer != 0) check(writer);
  }
  ReadersId last = 0;
  for (ReadersId readers : shadow.readers) {
    if (readers == last) continue;
    last = readers;
    for (AccessId reader : readers_[readers].accesses) check(reader);
  }
}

void RaceDetector::ReportRace(const Access& earlier, const Party& later, int lane,
                              ShadowSpace space, uint64_t address) {
  const bool tensor = space == ShadowSpace::kTensor;
  const std::string what =
      std::string(later.async ? "an asynchronous " : "a ") +
      (later.write ? "write to " : "read of ") + PlaceName(space, address) +
      " is not ordered after " + Describe(earlier) + "; " +
      (tensor ? MissingTensorEdge(earlier, later) : MissingEdge(earlier, later, lane));
  later.warp->Report("race", what, lane);
}

}  // namespace jax_fa4::emulator
