// Lanes of one warp, as far as they are told apart: a release by some of them gives on what the
// others did only up to where all met (PTX ISA 9.7.13.2: bar.warp.sync orders memory accesses
// among the threads that take part). A warp's lanes stay one entity, so what the releasing lanes
// did themselves since then is not given on either, where others did something, too. An
// asynchronous operation that some lanes start comes after what others did on the same terms, and
// so does an access of lanes that have not waited for what others have: a wait is the executing
// thread's (9.7.9.25.3, 9.7.13.15.16).
#include "emulator/check/races.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

void RaceDetector::ReleaseLanes(Warp& warp, ProxyClocks* into) {
  const uint32_t self = Index(warp);
  Apart& apart = apart_[self];
  const bool others_did = (apart.lanes & ~warp.exec) != 0;
  const bool others_waited = apart.waited != 0 && (apart.waited & warp.exec) == 0;
  if (machine_->options.level == Level::kHardware || (!others_did && !others_waited)) {
    Release(warp, into);
    return;
  }
  const uint32_t now = clocks_[self].generic[self];
  ProxyClocks known;
  Release(warp, &known);
  if (others_waited) {
    const uint32_t fenced = known.async[self];
    known.generic = apart.before.generic;
    known.async = apart.before.async;
    known.generic.Raise(self, now);
    known.async.Raise(self, fenced);
  }
  if (others_did) {
    apart.withheld = now;
    known.generic.Lower(self, apart.generic);
    known.async.Lower(self, apart.async);
  }
  if (others_did && uses_tensor_memory_) {
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

ProxyClocks* RaceDetector::WaitLanes(Warp& warp, uint32_t lanes) {
  if (machine_->options.level == Level::kHardware) return nullptr;
  const uint32_t self = Index(warp);
  Apart& apart = apart_[self];
  const uint32_t others = warp.alive & ~apart.waited & ~lanes;
  if (apart.waited == 0) {
    if (others == 0) return nullptr;
    apart.before = clocks_[self];
  } else if (others == 0) {
    return &apart.before;
  }
  // NOTES: two sets of lanes that waited for different things are not told apart.
  apart.waited |= lanes;
  return nullptr;
}

uint32_t RaceDetector::LanesBehind(const Party& later) const {
  const uint32_t waited = apart_[Index(*later.warp)].waited;
  return waited == 0 ? 0 : accesses_[later.id].lanes & ~waited;
}

const ProxyClocks& RaceDetector::KnownTo(const Access& earlier, const Party& later, int lane) {
  const uint32_t self = Index(*later.warp);
  const bool behind = (LanesBehind(later) & (lane < 0 ? ~0u : 1u << lane)) != 0;
  return behind && earlier.entity != self ? apart_[self].before : clocks_[self];
}

void RaceDetector::MeetLanes(Warp& warp, uint32_t lanes) {
  const uint32_t self = Index(warp);
  Apart& apart = apart_[self];
  if (machine_->options.level == Level::kHardware) return;
  if ((apart.waited & lanes) != 0) apart.waited |= lanes;
  if ((warp.alive & ~apart.waited) == 0) apart.waited = 0;
  if ((apart.lanes & ~lanes) != 0) return;
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
