// Lanes of one warp, as far as they are told apart: a release by some of them gives on what the
// others did only up to where all met (PTX ISA 9.7.13.2: bar.warp.sync orders memory accesses
// among the threads that take part). A warp's lanes stay one entity, so what the releasing lanes
// did themselves since then is not given on either, where others did something, too. An
// asynchronous operation that some lanes start comes after what others did on the same terms.
#include "emulator/check/races.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

void RaceDetector::ReleaseLanes(Warp& warp, ProxyClocks* into) {
  const uint32_t self = Index(warp);
  Apart& apart = apart_[self];
  if (machine_->options.level == Level::kHardware || (apart.lanes & ~warp.exec) == 0) {
    Release(warp, into);
    return;
  }
  apart.withheld = clocks_[self].generic[self];
  ProxyClocks known;
  Release(warp, &known);
  known.generic.Lower(self, apart.generic);
  known.async.Lower(self, apart.async);
  if (uses_tensor_memory_) {
    known.tensor.Lower(LaneChannel(warp, ChannelKind::kTensorLoads, 0), apart.tensor_loads);
    known.tensor.Lower(LaneChannel(warp, ChannelKind::kTensorStores, 0), apart.tensor_stores);
  }
  into->Join(known);
}

bool RaceDetector::LanesMet(const Access& earlier, const Party& later) {
  const uint32_t self = Index(*later.warp);
  if (!later.async || earlier.entity != self || machine_->options.level == Level::kHardware) {
    return true;
  }
  const bool by_others = (earlier.lanes & ~accesses_[later.id].lanes) != 0;
  return !by_others || earlier.time <= apart_[self].async;
}

void RaceDetector::MeetLanes(Warp& warp, uint32_t lanes) {
  const uint32_t self = Index(warp);
  Apart& apart = apart_[self];
  if (machine_->options.level == Level::kHardware || (apart.lanes & ~lanes) != 0) return;
  ProxyClocks& own = clocks_[self];
  apart.lanes = 0;
  apart.generic = own.generic[self];
  apart.async = own.async[self];
  if (uses_tensor_memory_) {
    const Clock& tensor = RelayedTensor(warp);
    apart.tensor_loads = tensor[LaneChannel(warp, ChannelKind::kTensorLoads, 0)];
    apart.tensor_stores = tensor[LaneChannel(warp, ChannelKind::kTensorStores, 0)];
  }
  own.generic.Raise(self, own.generic[self] + 1);  // what comes later they have not shared
}

}  // namespace jax_fa4::emulator
