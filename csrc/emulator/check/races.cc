#include "emulator/check/races.h"

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {
namespace {

constexpr uint32_t kWordBytes = 4;
constexpr uint64_t kPageBytes = 4096;

}  // namespace

uint32_t RaceDetector::Index(const Warp& warp) const {
  return warp.cta->rank * static_cast<uint32_t>(warp.cta->warps.size()) +
         static_cast<uint32_t>(warp.index);
}

void RaceDetector::BeginCluster() {
  ++cluster_;
  clocks_.clear();
  channels_.clear();
  channel_ids_.clear();
  shared_.clear();
  tensor_.assign(machine_->cluster.ctas.size(), ShadowWords());
  for (const auto& cta : machine_->cluster.ctas) {
    shared_.emplace_back((cta->shared_end + kWordBytes - 1) / kWordBytes);
    clocks_.resize(clocks_.size() + cta->warps.size());
  }
  for (EntityId warp = 0; warp < clocks_.size(); ++warp) clocks_[warp].generic.Raise(warp, 1);
  apart_.assign(clocks_.size(), Apart());
  fenced_inits_.assign(clocks_.size(), ProxyClocks());
  relayed_tensor_.assign(clocks_.size(), Clock());
  fenced_products_.assign(clocks_.size(), 0);
  uses_tensor_memory_ = false;
  earlier_clusters_.clear();
}

// ---- edges

void RaceDetector::Release(Warp& warp, ProxyClocks* into) {
  const uint32_t self = Index(warp);
  into->generic.Join(clocks_[self].generic);
  into->async.Join(clocks_[self].async);
  if (uses_tensor_memory_) into->tensor.Join(RelayedTensor(warp));
  clocks_[self].generic.Raise(self, clocks_[self].generic[self] + 1);
}

void RaceDetector::Acquire(Warp& warp, const ProxyClocks& from) {
  const uint32_t self = Index(warp);
  ProxyClocks* others = WaitLanes(warp, warp.exec);
  for (ProxyClocks* clocks : {&clocks_[self], others}) {
    if (clocks == nullptr) continue;
    clocks->generic.Join(from.generic);
    clocks->async.Join(from.async);
  }
  // What comes back of its own lanes, they have all released.
  apart_[self].generic = std::max(apart_[self].generic, from.generic[self]);
  apart_[self].async = std::max(apart_[self].async, from.async[self]);
  AcquireTensor(warp, from);
}

void RaceDetector::ReleaseTensor(Warp& warp, ProxyClocks* into) {
  ProxyClocks known;
  ReleaseLanes(warp, &known);
  into->tensor.Join(known.tensor);
}

void RaceDetector::AcquireTensor(Warp& warp, const ProxyClocks& from) {
  if (uses_tensor_memory_) RelayedTensor(warp).Join(from.tensor);
}

void RaceDetector::FenceProxyAsync(Warp& warp) {
  const uint32_t self = Index(warp);
  ProxyClocks& own = clocks_[self];
  own.async.Join(own.generic);
  Apart& apart = apart_[self];
  if ((warp.exec & ~apart.waited) != 0) apart.before.async.Join(apart.before.generic);
  apart.async = std::max(apart.async, apart.generic);
  own.generic.Raise(self, own.generic[self] + 1);  // what comes later is not fenced
}

void RaceDetector::Strong(Warp& warp, uint64_t address) {
  StrongLocation& location = strong_[address];
  if (location.cluster != cluster_) {
    if (location.cluster != 0) location.clusters.insert(location.cluster);
    location.cluster = cluster_;
    location.clocks = ProxyClocks();
  }
  earlier_clusters_.insert(location.clusters.begin(), location.clusters.end());
  location.clusters.insert(earlier_clusters_.begin(), earlier_clusters_.end());
  Acquire(warp, location.clocks);
  Release(warp, &location.clocks);
}

void RaceDetector::Observe(Warp& warp, uint32_t lanes, EntityId channel, uint32_t time) {
  if (time == 0) return;
  ProxyClocks* others = WaitLanes(warp, lanes);
  for (ProxyClocks* clocks : {&ClocksOf(warp), others}) {
    if (clocks == nullptr) continue;
    clocks->generic.Raise(channel, time);
    clocks->async.Raise(channel, time);
  }
}

EntityId RaceDetector::FindChannel(ChannelKind kind, uint32_t cta_rank, uint32_t key) {
  const auto name = std::make_tuple(static_cast<int>(kind), cta_rank, key);
  const auto found = channel_ids_.find(name);
  if (found != channel_ids_.end()) return found->second;
  const EntityId id = static_cast<EntityId>(clocks_.size() + channels_.size());
  Channel channel;
  channel.kind = kind;
  channel.cta_rank = cta_rank;
  channel.key = key;
  channels_.push_back(std::move(channel));
  return channel_ids_[name] = id;
}

EntityId RaceDetector::MbarrierChannel(const Cta& cta, uint32_t offset) {
  return FindChannel(ChannelKind::kMbarrier, cta.rank, offset);
}

EntityId RaceDetector::LaneChannel(const Warp& warp, ChannelKind kind, int lane) {
  return FindChannel(kind, warp.cta->rank, static_cast<uint32_t>(warp.index * 32 + lane));
}

// ---- parties

Party RaceDetector::MakeParty(Warp& warp, Access access) {
  if (accesses_.Full() || readers_.Full()) Collect();
  access.cta = warp.cta->linear;
  access.cluster = cluster_;
  access.pc = warp.group().pc;
  access.warp = static_cast<int16_t>(warp.index);
  Party party;
  party.warp = &warp;
  party.write = access.write;
  party.async = access.async;
  party.id = accesses_.Add(access);
  return party;
}

Party RaceDetector::Generic(Warp& warp, bool write, uint8_t bytes, bool atomic) {
  const uint32_t self = Index(warp);
  Access access;
  access.entity = self;
  access.time = clocks_[self].generic[self];
  access.write = write;
  access.bytes = bytes;
  access.atomic = atomic;
  access.lanes = warp.exec;
  apart_[self].lanes |= warp.exec;
  return MakeParty(warp, access);
}

Party RaceDetector::Async(Warp& warp, bool write, EntityId channel, uint32_t time, bool atomic) {
  Access access;
  access.entity = channel;
  access.time = time;
  access.write = write;
  access.async = true;
  access.atomic = atomic;
  access.lanes = warp.exec;
  access.kept = time == kUnfinished;
  return MakeParty(warp, access);
}

Party RaceDetector::Copy(Warp& warp, bool write, EntityId channel, uint32_t time) {
  Access access;
  access.entity = channel;
  access.time = time;
  access.write = write;
  return MakeParty(warp, access);
}

void RaceDetector::Finish(AccessId id, uint32_t time) {
  accesses_[id].time = time;
  accesses_[id].kept = false;
}

// ---- checks

bool RaceDetector::Ordered(const Access& earlier, const Party& later, int lane, ShadowSpace space) {
  if (space == ShadowSpace::kTensor) return TensorOrdered(earlier, later);
  // Clusters run at any time; what they have synchronised through is known as a whole only.
  if (earlier.cluster != cluster_) return earlier_clusters_.count(earlier.cluster) != 0;
  const ProxyClocks& own = KnownTo(earlier, later, lane);
  // What a thread has read by ordinary loads, and released, working kernels let TMA overwrite
  // without a proxy fence; the text (8.9.5) asks for one.
  const bool reads_are_done =
      machine_->options.level == Level::kHardware && !earlier.write && !earlier.async;
  const Clock& clock = later.async && !reads_are_done ? own.async : own.generic;
  return earlier.time <= clock[earlier.entity] && LanesMet(earlier, later);
}

void RaceDetector::CheckWriter(Party* party, int lane, AccessId writer, ShadowSpace space,
                               uint64_t address) {
  const Access& earlier = accesses_[writer];
  const Access& own = accesses_[party->id];
  if ((earlier.bytes & own.bytes) == 0 || (earlier.atomic && own.atomic)) return;
  if (party->agrees && !earlier.async && earlier.bytes == own.bytes) return;
  if (!Ordered(earlier, *party, lane, space)) ReportRace(earlier, *party, lane, space, address);
  if (LanesBehind(*party) == 0) party->passed_writer_ = writer;
}

void RaceDetector::CheckReaders(Party* party, int lane, ReadersId readers, ShadowSpace space,
                                uint64_t address) {
  const Access& own = accesses_[party->id];
  for (AccessId reader : readers_[readers].accesses) {
    const Access& earlier = accesses_[reader];
    if ((earlier.bytes & own.bytes) == 0) continue;
    if (!Ordered(earlier, *party, lane, space)) ReportRace(earlier, *party, lane, space, address);
  }
  if (LanesBehind(*party) == 0) party->passed_readers_ = readers;
}

// The readers `old` and this party: neighbouring words mostly ask for the same.
ReadersId RaceDetector::WithReader(Party* party, ReadersId old) {
  Party::Replaced& last = party->replaced_[old % party->replaced_.size()];
  if (last.made != 0 && (last.old == old || last.made == old)) return last.made;
  const Access& own = accesses_[party->id];
  Readers made;
  made.accesses.reserve(readers_[old].accesses.size() + 1);
  for (AccessId reader : readers_[old].accesses) {
    if (reader == party->id) return old;
    const Access& earlier = accesses_[reader];
    // An entity's later access stands for its earlier ones.
    if (earlier.entity != own.entity || earlier.bytes != own.bytes) made.accesses.push_back(reader);
  }
  made.accesses.push_back(party->id);
  last = {old, readers_.Add(std::move(made))};
  return last.made;
}

void RaceDetector::Visit(Party* party, int lane, ShadowWords* shadow, size_t first, size_t count,
                         ShadowSpace space, uint64_t address) {
  const uint64_t step = space == ShadowSpace::kTensor ? 1 : kWordBytes;
  ReadersId last = 0, made = 0;  // most neighbours have the same readers
  for (size_t word = first; word < first + count; ++word, address += step) {
    AccessId& writer = shadow->writer[word];
    ReadersId& readers = shadow->readers[word];
    if (writer != 0 && writer != party->passed_writer_ && writer != party->id) {
      CheckWriter(party, lane, writer, space, address);
    }
    if (!party->write) {
      if (made == 0 || readers != last) made = WithReader(party, last = readers);
      readers = made;
      continue;
    }
    if (readers != 0 && readers != party->passed_readers_) {
      CheckReaders(party, lane, readers, space, address);
    }
    writer = party->id;
    readers = 0;
  }
}

void RaceDetector::VisitShared(Party* party, int lane, const Cta& cta, uint32_t offset,
                               uint32_t bytes) {
  const size_t first = offset / kWordBytes;
  const size_t last = (offset + bytes - 1) / kWordBytes;
  if (last >= shared_[cta.rank].writer.size()) return;  // Machine::Shared reports it
  Visit(party, lane, &shared_[cta.rank], first, last - first + 1, ShadowSpace::kShared,
        first * kWordBytes);
}

void RaceDetector::VisitGlobal(Party* party, int lane, uint64_t address, uint32_t bytes) {
  // NOTES: right after Machine::Global, which has looked the range up.
  if (!party->write && !machine_->LastGlobalIsWritable()) return;
  while (bytes > 0) {
    const uint64_t in_page = address % kPageBytes;
    const uint32_t here = static_cast<uint32_t>(std::min<uint64_t>(bytes, kPageBytes - in_page));
    auto& page = global_[address / kPageBytes];
    if (page == nullptr) page = std::make_unique<ShadowWords>(kPageBytes / kWordBytes);
    const size_t first = in_page / kWordBytes;
    const size_t last = (in_page + here - 1) / kWordBytes;
    Visit(party, lane, page.get(), first, last - first + 1, ShadowSpace::kGlobal,
          address - in_page + first * kWordBytes);
    address += here;
    bytes -= here;
  }
}

// ---- mbarrier objects

void RaceDetector::InitMbarrier(Warp& warp, int lane, const Cta& cta, uint32_t offset) {
  Party party = Generic(warp, true);
  VisitShared(&party, lane, cta, offset, 8);
}

void RaceDetector::UseMbarrier(Warp& warp, int lane, const Cta& cta, uint32_t offset) {
  const AccessId writer = shared_[cta.rank].writer[offset / kWordBytes];
  if (writer == 0) return;
  Party party;
  party.warp = &warp;
  if (!Ordered(accesses_[writer], party, lane, ShadowSpace::kShared)) {
    ReportRace(accesses_[writer], party, lane, ShadowSpace::kShared, offset);
  }
}

}  // namespace jax_fa4::emulator
