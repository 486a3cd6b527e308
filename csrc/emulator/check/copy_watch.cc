#include "emulator/check/copy_watch.h"

namespace jax_fa4::emulator {

void WatchCopy(Warp& warp, int lane, uint64_t from, uint32_t read, const Cta& cta, uint32_t to,
               uint32_t size) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  const EntityId channel = races->LaneChannel(warp, ChannelKind::kCopies, lane);
  const uint32_t time = ++races->CountOf(channel);
  if (read != 0) {
    Party source = races->Copy(warp, false, channel, time);
    races->VisitGlobal(&source, lane, from, read);
  }
  Party destination = races->Copy(warp, true, channel, time);
  races->VisitShared(&destination, lane, cta, to, size);
}

void WatchCopyCommit(Warp& warp, int lane) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  Channel& channel = races->ChannelAt(races->LaneChannel(warp, ChannelKind::kCopies, lane));
  channel.groups.push_back(channel.count);
}

void WatchCopyWait(Warp& warp, int lane, uint32_t pending) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  const EntityId id = races->LaneChannel(warp, ChannelKind::kCopies, lane);
  const std::vector<uint32_t>& groups = races->ChannelAt(id).groups;
  if (groups.size() > pending) races->ObserveCopies(warp, id, groups[groups.size() - 1 - pending]);
}

void WatchCopyWaitAll(Warp& warp, int lane) {
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return;
  const EntityId id = races->LaneChannel(warp, ChannelKind::kCopies, lane);
  races->ObserveCopies(warp, id, races->CountOf(id));
}

ProxyClocks CopiesReleased(Warp& warp, int lane) {
  ProxyClocks known;
  RaceDetector* races = warp.machine->races.get();
  if (races == nullptr) return known;
  const EntityId id = races->LaneChannel(warp, ChannelKind::kCopies, lane);
  races->Release(warp, &known);
  known.generic.Raise(id, races->CountOf(id));
  return known;
}

}  // namespace jax_fa4::emulator
