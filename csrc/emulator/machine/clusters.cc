// How clusters begin: which is next, its CTAs, warps and their special registers.
#include <algorithm>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {
namespace {

void Fill(Warp* warp, const Constant& constant) {
  uint64_t value = constant.value;
  if (constant.is_shared_address) value += uint64_t{warp->cta->rank} << 24;
  uint8_t* lanes = warp->frame.get() + constant.slot;
  if (constant.lane_bytes == 0) {
    const uint32_t mask = static_cast<uint32_t>(value);
    std::memcpy(lanes, &mask, 4);
    return;
  }
  for (int lane = 0; lane < 32; ++lane) {
    std::memset(lanes + lane * constant.lane_bytes, 0, constant.lane_bytes);
    std::memcpy(lanes + lane * constant.lane_bytes, &value,
                std::min<int>(constant.lane_bytes, sizeof(value)));
  }
}

// Of a special register that tells of clusters.
uint32_t ClusterValue(Special special, const Dim3& id, const Cta& cta, const Launch& launch) {
  const Dim3& size = launch.cluster;
  switch (special) {
    case Special::kClusteridX:
      return id.x;
    case Special::kClusteridY:
      return id.y;
    case Special::kClusteridZ:
      return id.z;
    case Special::kNclusteridX:
      return launch.grid.x / size.x;
    case Special::kNclusteridY:
      return launch.grid.y / size.y;
    case Special::kNclusteridZ:
      return launch.grid.z / size.z;
    case Special::kClusterCtaidX:
      return cta.id.x % size.x;
    case Special::kClusterCtaidY:
      return cta.id.y % size.y;
    case Special::kClusterCtaidZ:
      return cta.id.z % size.z;
    case Special::kClusterNctaidX:
      return size.x;
    case Special::kClusterNctaidY:
      return size.y;
    case Special::kClusterNctaidZ:
      return size.z;
    case Special::kClusterCtarank:
      return cta.rank;
    case Special::kClusterNctarank:
      return static_cast<uint32_t>(size.Count());
    default:
      return 0;
  }
}

}  // namespace

uint32_t Machine::SpecialValue(Special special, const Cta& cta, int warp, int lane) const {
  const uint32_t thread = static_cast<uint32_t>(warp) * 32 + static_cast<uint32_t>(lane);
  const Dim3& block = launch.block;
  switch (special) {
    case Special::kTidX:
      return thread % block.x;
    case Special::kTidY:
      return thread / block.x % block.y;
    case Special::kTidZ:
      return thread / block.x / block.y;
    case Special::kNtidX:
      return block.x;
    case Special::kNtidY:
      return block.y;
    case Special::kNtidZ:
      return block.z;
    case Special::kCtaidX:
      return cta.id.x;
    case Special::kCtaidY:
      return cta.id.y;
    case Special::kCtaidZ:
      return cta.id.z;
    case Special::kNctaidX:
      return launch.grid.x;
    case Special::kNctaidY:
      return launch.grid.y;
    case Special::kNctaidZ:
      return launch.grid.z;
    case Special::kLaneid:
      return static_cast<uint32_t>(lane);
    case Special::kWarpid:
      return static_cast<uint32_t>(warp);
    default:
      return ClusterValue(special, cluster.id, cta, launch);
  }
}

std::unique_ptr<Warp> Machine::MakeWarp(Cta* cta, int index) {
  auto warp = std::make_unique<Warp>();
  warp->machine = this;
  warp->cta = cta;
  warp->index = index;
  warp->frame.reset(new uint8_t[program.frame_bytes + 64]());
  const uint64_t threads = launch.block.Count();
  const uint64_t here = std::min<uint64_t>(32, threads - static_cast<uint64_t>(index) * 32);
  warp->alive = here == 32 ? kAllLanes : (1u << here) - 1;
  warp->groups.push_back({0, warp->alive, false, 0});
  if (options.check_registers) warp->registers = std::make_unique<RegisterChecker>(program);
  for (const Constant& constant : program.constants) Fill(warp.get(), constant);
  for (const SpecialSlot& special : program.specials) {
    for (int lane = 0; lane < 32; ++lane) {
      warp->Lanes<uint32_t>(special.slot)[lane] = SpecialValue(special.special, *cta, index, lane);
    }
  }
  return warp;
}

void Machine::MakeCluster(Dim3 id) {
  cluster = Cluster();
  cluster.machine = this;
  cluster.id = id;
  const Dim3& size = launch.cluster;
  const int warps = static_cast<int>((launch.block.Count() + 31) / 32);
  for (uint32_t rank = 0; rank < size.Count(); ++rank) {
    auto cta = std::make_unique<Cta>();
    cta->cluster = &cluster;
    cta->rank = rank;
    cta->id = {id.x * size.x + rank % size.x, id.y * size.y + rank / size.x % size.y,
               id.z * size.z + rank / size.x / size.y};
    cta->linear =
        cta->id.x + uint64_t{launch.grid.x} * (cta->id.y + uint64_t{launch.grid.y} * cta->id.z);
    cta->shared_end = kSharedBase + program.static_shared_bytes + launch.dynamic_shared_bytes;
    cta->shared.assign(cta->shared_end, 0xff);  // NaN in every float type
    cta->shared_initialised.assign(cta->shared_end, 0);
    for (int warp = 0; warp < warps; ++warp) cta->warps.push_back(MakeWarp(cta.get(), warp));
    cluster.ctas.push_back(std::move(cta));
  }
  if (races != nullptr) races->BeginCluster();
}

Dim3 Machine::ClusterId(uint64_t index) const {
  const uint32_t x = launch.grid.x / launch.cluster.x, y = launch.grid.y / launch.cluster.y;
  return {static_cast<uint32_t>(index % x), static_cast<uint32_t>(index / x % y),
          static_cast<uint32_t>(index / x / y)};
}

bool Machine::NextCluster(Dim3* id) {
  if (!passed_over_.empty()) {
    *id = ClusterId(passed_over_.front());
    passed_over_.pop_front();
    return true;
  }
  if (clusters_taken_ == Clusters()) return false;
  *id = ClusterId(clusters_taken_++);
  return true;
}

// Clusters run one after the other here. On a device others run beside, and take clusters, too; and
// a request may fail though some are left. So of four seeds one lets every request have the next
// cluster, as seed 0 does; one lets none have any; for two it is chance.
bool Machine::CancelCluster(Dim3* id) {
  constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;  // times 2^64: spreads neighbouring seeds
  const uint64_t rule = options.seed * kGoldenRatio >> 62;
  if (rule == 1) return false;
  if (rule > 1) {
    if (cancellation_random_() % 4 == 0) return false;
    while (clusters_taken_ < Clusters() && cancellation_random_() % 4 == 0) {
      passed_over_.push_back(clusters_taken_++);
    }
  }
  if (clusters_taken_ == Clusters()) return false;
  *id = ClusterId(clusters_taken_++);
  return true;
}

}  // namespace jax_fa4::emulator
