#include "emulator/check/tensor_watch.h"

namespace jax_fa4::emulator {
namespace {

constexpr uint32_t kChunk = 16;

void VisitCells(RaceDetector* races, Party* party, int lane, const Cta& cta,
                const TensorCells& cells) {
  for (uint32_t quadrant = 0; quadrant < 4; ++quadrant) {
    if ((cells.quadrants >> quadrant & 1u) == 0) continue;
    races->VisitTensor(party, lane, cta, quadrant, cells.column, cells.columns);
    if (cells.second == 0) continue;
    races->VisitTensor(party, lane, cta, quadrant, cells.column + cells.second, cells.columns);
  }
}

}  // namespace

uint32_t WatchTensorAccess(Warp& warp, bool write, const TensorCells& cells) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return 0;
  const EntityId channel =
      races->LaneChannel(warp, write ? ChannelKind::kTensorStores : ChannelKind::kTensorLoads, 0);
  const uint32_t time = ++races->CountOf(channel);
  Party party = races->Tensor(warp, write, channel, time, cells.lanes);
  VisitCells(races, &party, -1, *warp.cta, cells);
  return time;
}

void WatchTensorLoads(Warp& warp, uint32_t load) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  races->ObserveTensor(warp, races->LaneChannel(warp, ChannelKind::kTensorLoads, 0), load);
}

void WatchTensorWait(Warp& warp, bool stores) {
  if (!stores && warp.registers != nullptr) warp.registers->FinishLoads();
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  const EntityId channel =
      races->LaneChannel(warp, stores ? ChannelKind::kTensorStores : ChannelKind::kTensorLoads, 0);
  races->ObserveTensor(warp, channel, races->CountOf(channel));
}

void WatchAllocation(Warp& warp, const Cta& cta, uint32_t offset) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Generic(warp, true);  // a weak write, 9.7.16.7.1
  races->VisitShared(&party, -1, cta, offset, 4);
}

WatchedProduct::WatchedProduct(Warp& warp, int lane, uint32_t pipeline)
    : warp_(warp), lane_(lane), pipeline_(pipeline) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  channel_ = races->LaneChannel(warp, ChannelKind::kTensorProducts, lane);
  time_ = ++races->CountOf(channel_);
}

void WatchedProduct::ReadShared(const Cta& cta, const std::vector<uint32_t>& addresses) {
  RaceDetector* races = warp_.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Async(warp_, false, channel_, time_);
  for (uint32_t address : addresses) races->VisitShared(&party, lane_, cta, address, kChunk);
}

void WatchedProduct::Visit(const Cta& cta, const TensorCells& cells, bool write) {
  RaceDetector* races = warp_.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Tensor(warp_, write, channel_, time_, cells.lanes, pipeline_);
  VisitCells(races, &party, lane_, cta, cells);
}

}  // namespace jax_fa4::emulator
