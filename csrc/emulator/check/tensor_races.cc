// Races over tensor memory (PTX ISA 9.7.16.6). What a warp's next tcgen05 instruction comes after
// is its tensor clock. At level kPtx, what it acquires by an mbarrier or a barrier enters that
// clock by tcgen05.fence::after_thread_sync, and what it did enters what it releases by
// ::before_thread_sync; what it only passes on needs no fence. At kHardware they are one clock.
#include "emulator/check/races.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {
namespace {

constexpr uint32_t kQuadrants = kTensorLanes / 32;

}  // namespace

Clock& RaceDetector::RelayedTensor(const Warp& warp) {
  const uint32_t self = Index(warp);
  if (machine_->options.level == Level::kPtx) return relayed_tensor_[self];
  clocks_[self].tensor.Raise(self, clocks_[self].generic[self]);
  return clocks_[self].tensor;
}

void RaceDetector::FenceBeforeThreadSync(Warp& warp) {
  const uint32_t self = Index(warp);
  fenced_products_[self] = clocks_[self].generic[self];
  RelayTensor(warp);
}

void RaceDetector::RelayTensor(Warp& warp) {
  if (machine_->options.level == Level::kHardware) return;
  const uint32_t self = Index(warp);
  ProxyClocks& own = clocks_[self];
  relayed_tensor_[self].Join(own.tensor);
  relayed_tensor_[self].Raise(self, own.generic[self]);
  own.generic.Raise(self, own.generic[self] + 1);  // what is issued later is not fenced
}

void RaceDetector::FenceAfterThreadSync(Warp& warp) {
  if (machine_->options.level == Level::kHardware) return;
  ClocksOf(warp).tensor.Join(relayed_tensor_[Index(warp)]);
}

void RaceDetector::ObserveTensor(Warp& warp, EntityId channel, uint32_t time) {
  ClocksOf(warp).tensor.Raise(channel, time);
}

ProxyClocks RaceDetector::CommitProducts(Warp& warp, int lane) {
  const EntityId channel = LaneChannel(warp, ChannelKind::kTensorProducts, lane);
  const uint32_t time = CountOf(channel);
  uses_tensor_memory_ = true;
  RelayTensor(warp);  // a fence::before_thread_sync is implied, 9.7.16.6.4.2
  ProxyClocks known;
  Release(warp, &known);
  known.generic.Raise(channel, time);
  known.async.Raise(channel, time);
  known.tensor.Raise(channel, time);
  const Clock& implied = ChannelAt(channel).implied;
  known.generic.Join(implied);
  known.async.Join(implied);
  known.tensor.Join(implied);
  return known;
}

Party RaceDetector::Tensor(Warp& warp, bool write, EntityId channel, uint32_t time, uint8_t lanes,
                           uint32_t pipeline) {
  uses_tensor_memory_ = true;
  Access access;
  access.entity = channel;
  access.time = time;
  access.write = write;
  access.async = true;
  access.bytes = lanes;
  access.pipeline = pipeline;
  access.issuer = Index(warp);
  access.issued = ClocksOf(warp).generic[access.issuer];
  apart_[access.issuer].lanes |= warp.exec;
  return MakeParty(warp, access);
}

void RaceDetector::VisitTensor(Party* party, int lane, const Cta& cta, uint32_t quadrant,
                               uint32_t column, uint32_t columns) {
  // Where there are no such columns the access itself is a finding.
  if (column >= kTensorColumns || columns > kTensorColumns - column) return;
  ShadowWords& shadow = tensor_[cta.rank];
  if (shadow.writer.empty()) shadow = ShadowWords(kQuadrants * kTensorColumns);
  const size_t first = quadrant * kTensorColumns + column;
  Visit(party, lane, &shadow, first, columns, ShadowSpace::kTensor, first);
}

bool RaceDetector::TensorOrdered(const Access& earlier, const Party& later) {
  const Clock& own = ClocksOf(*later.warp).tensor;
  if (earlier.time <= own[earlier.entity]) return true;
  if (later.synchronous) return earlier.time <= RelayedTensor(*later.warp)[earlier.entity];
  // Products of one shape and accumulator take effect in the order of their issue, if there is one;
  // tensor cores do all products of a CTA so. By the text others of one thread need a
  // tcgen05.fence::before_thread_sync between them: what is before it is ordered before every
  // tcgen05 instruction after it (9.7.16.6.3).
  const uint32_t pipeline = accesses_[later.id].pipeline;
  if (earlier.pipeline == 0 || pipeline == 0) return false;
  const uint32_t self = Index(*later.warp);
  if (machine_->options.level == Level::kPtx && earlier.pipeline != pipeline) {
    return earlier.issuer == self && earlier.issued <= fenced_products_[self];
  }
  if (earlier.issuer != self && earlier.issued > own[earlier.issuer]) return false;
  const EntityId channel = accesses_[later.id].entity;
  if (channel != earlier.entity) ChannelAt(channel).implied.Raise(earlier.entity, earlier.time);
  return true;
}

void RaceDetector::CheckFreeTensor(Warp& warp, const Cta& cta, uint32_t column, uint32_t columns) {
  ShadowWords& shadow = tensor_[cta.rank];
  if (shadow.writer.empty()) return;
  Party party;
  party.warp = &warp;
  party.write = true;
  party.synchronous = true;
  for (uint32_t quadrant = 0; quadrant < kQuadrants; ++quadrant) {
    const size_t first = quadrant * kTensorColumns + column;
    Visit(&party, -1, &shadow, first, columns, ShadowSpace::kTensor, first);
  }
}

}  // namespace jax_fa4::emulator
