#include "emulator/trace/trace.h"

#include <utility>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

void Trace::BeginRun(const Machine& machine) {
  machine_ = &machine;
  ops_ = machine.program.ops.size();
  const size_t warps = (machine.launch.block.Count() + 31) / 32;
  counts_.assign(warps * ops_, TraceCount());
}

TraceEvent Trace::Event(EventKind kind, const About& about, uint64_t begin) const {
  TraceEvent event;
  event.begin = begin;
  event.end = machine_->executed;
  event.object = about.object;
  event.amount = about.amount;
  event.phase = about.phase;
  event.cta = static_cast<uint32_t>(warp_->cta->linear);
  event.own = own_.at(warp_);
  event.pc = pc_;
  event.warp = static_cast<uint16_t>(warp_->index);
  event.kind = kind;
  return event;
}

void Trace::Add(const TraceEvent& event) {
  if (events_.size() == max_events_) {
    ++dropped_;
  } else {
    events_.push_back(event);
  }
}

void Trace::BeginStep(const Warp& warp) {
  warp_ = &warp;
  pc_ = static_cast<uint32_t>(warp.groups[warp.current].pc);
  lanes_ = warp.exec;
  about_.clear();
  own_.try_emplace(warp_, 0);
  if (warp.executed == 1)
    own_[warp_] = next_[warp_] = 0;  // a warp of another cluster, where the last one's was
}

void Trace::EndStep(bool waits) {
  const std::pair<const Warp*, uint32_t> key = {warp_, pc_};
  if (waits) {
    const About about = about_.empty() ? About{0, 0, 0} : about_.front();
    waiting_.try_emplace(key, Stuck{machine_->executed, about});
    return;
  }
  const uint32_t own = own_[warp_]++;
  Follow(own);
  TraceCount& count = counts_[static_cast<size_t>(warp_->index) * ops_ + pc_];
  ++count.warps;
  count.lanes += static_cast<uint64_t>(__builtin_popcount(lanes_));
  uint64_t begin = machine_->executed;
  EventKind kind = EventKind::kDone;
  const auto waited = waiting_.find(key);
  if (waited != waiting_.end()) {
    kind = EventKind::kWait;
    begin = waited->second.begin;
    ++count.waits;
    count.waited += machine_->executed - begin;
    if (about_.empty()) about_.push_back(waited->second.about);
    waiting_.erase(waited);
  }
  for (const About& about : about_) {
    count.amount += about.amount;
    TraceEvent event = Event(kind, about, begin);
    event.own = own;
    Add(event);
  }
}

void Trace::Follow(uint32_t own) {
  uint32_t& next = next_[warp_];
  if ((pc_ != next || own == 0) && jumps_.size() < max_events_) {
    jumps_.push_back({own, pc_, static_cast<uint32_t>(warp_->cta->linear),
                      static_cast<uint32_t>(warp_->index), lanes_});
  }
  next = pc_ + 1;
}

void Trace::Note(uint64_t object, uint64_t phase, uint64_t amount) {
  for (About& about : about_) {
    if (about.object != object || about.phase != phase) continue;
    about.amount += amount;
    return;
  }
  about_.push_back({object, phase, amount});
}

std::function<void()> Trace::Watch(std::function<void()> complete) {
  if (about_.empty()) about_.push_back({0, 0, 0});
  const size_t first = events_.size();
  for (const About& about : about_) {
    counts_[static_cast<size_t>(warp_->index) * ops_ + pc_].amount += about.amount;
    Add(Event(EventKind::kStuck, about, machine_->executed));
  }
  about_.clear();
  const size_t last = events_.size();
  return [this, first, last, complete = std::move(complete)] {
    complete();
    for (size_t at = first; at < last; ++at) {
      events_[at].end = machine_->executed;
      events_[at].kind = EventKind::kAsync;
    }
  };
}

// What a finding interrupted is stuck: the picture of a deadlock.
void Trace::EndRun(const Machine& machine) {
  steps_ = machine.executed;
  for (TraceEvent& event : events_) {
    if (event.kind == EventKind::kStuck) event.end = steps_;
  }
  for (auto& cta : machine.cluster.ctas) {
    for (auto& warp : cta->warps) {
      for (const LaneGroup& group : warp->groups) {
        warp_ = warp.get();
        pc_ = static_cast<uint32_t>(group.pc);
        const auto stuck = waiting_.find({warp_, pc_});
        if (stuck == waiting_.end()) continue;
        Add(Event(EventKind::kStuck, stuck->second.about, stuck->second.begin));
      }
    }
  }
  waiting_.clear();
  machine_ = nullptr;
}

}  // namespace jax_fa4::emulator
