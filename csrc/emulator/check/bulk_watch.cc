#include "emulator/check/bulk_watch.h"

namespace jax_fa4::emulator {

void GlobalRuns::Add(uint64_t address, uint32_t bytes) {
  RaceDetector* races = warp_.machine->races.get();
  if (races == nullptr || (!write_ && !warp_.machine->LastGlobalIsWritable())) return;
  if (address != end_) {
    Flush();
    begin_ = address;
  }
  end_ = address + bytes;
}

void GlobalRuns::Flush() {
  if (begin_ == end_) return;
  RaceDetector* races = warp_.machine->races.get();
  if (party_.id == 0) party_ = races->Async(warp_, write_, channel_, time_);
  races->VisitGlobal(&party_, lane_, begin_, static_cast<uint32_t>(end_ - begin_));
}

AccessId GlobalRuns::Done() {
  Flush();
  begin_ = end_ = 0;
  return party_.id;
}

void WatchLoadFromShared(Warp& warp, int lane, const Cta& cta, uint32_t begin, uint32_t bytes,
                         WatchedLoad* load) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Async(warp, false, load->channel, kUnfinished);
  races->VisitShared(&party, lane, cta, begin, bytes);
  load->read = party.id;
}

void WatchLoadFromGlobal(Warp& warp, int lane, uint64_t address, uint32_t bytes,
                         WatchedLoad* load) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr || !warp.machine->LastGlobalIsWritable()) return;
  Party party = races->Async(warp, false, load->channel, kUnfinished);
  races->VisitGlobal(&party, lane, address, bytes);
  load->read = party.id;
}

WatchedLoad WatchLoad(Warp& warp, int lane, const Cta& cta, uint32_t begin, uint32_t bytes,
                      const Cta& barrier_cta, uint32_t barrier) {
  WatchedLoad load;
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return load;
  load.channel = races->MbarrierChannel(barrier_cta, barrier);
  Party party = races->Async(warp, true, load.channel, kUnfinished);
  races->VisitShared(&party, lane, cta, begin, bytes);
  load.write = party.id;
  return load;
}

// The writes are ordered before the completion of the phase that counts them, and nothing else of
// the issuing thread is (PTX ISA 8.9.1.1).
void LoadCompletes(Machine* machine, const WatchedLoad& load, const Cta& barrier_cta,
                   uint32_t barrier) {
  const auto found = barrier_cta.mbarriers.find(barrier);
  if (machine->races == nullptr || found == barrier_cta.mbarriers.end()) return;
  const uint32_t time = static_cast<uint32_t>(found->second.phase) + 1;
  if (load.write != 0) machine->races->Finish(load.write, time);
  if (load.read != 0) machine->races->Finish(load.read, time);
}

EntityId WatchStore(Warp& warp, int lane, const Cta& cta, uint32_t begin, uint32_t bytes,
                    uint64_t group) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return 0;
  const EntityId reads = races->LaneChannel(warp, ChannelKind::kBulkRead, lane);
  Party party = races->Async(warp, false, reads, static_cast<uint32_t>(group));
  races->VisitShared(&party, lane, cta, begin, bytes);
  return races->LaneChannel(warp, ChannelKind::kBulkWrite, lane);
}

void WatchStoreTo(Warp& warp, int lane, uint64_t address, uint32_t bytes, bool atomic,
                  EntityId channel, uint64_t group) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  Party party = races->Async(warp, true, channel, static_cast<uint32_t>(group), atomic);
  races->VisitGlobal(&party, lane, address, bytes);
}

void WatchBulkWait(Warp& warp, int lane, uint64_t reads, uint64_t writes) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  races->Observe(warp, 1u << lane, races->LaneChannel(warp, ChannelKind::kBulkRead, lane),
                 static_cast<uint32_t>(reads));
  races->Observe(warp, 1u << lane, races->LaneChannel(warp, ChannelKind::kBulkWrite, lane),
                 static_cast<uint32_t>(writes));
}

}  // namespace jax_fa4::emulator
