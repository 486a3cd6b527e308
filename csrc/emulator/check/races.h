// Data races by happens-before (PTX ISA 8.7.1: conflicting accesses that are not in causality
// order), for shared memory and for what the kernel writes of global memory.
//
// Entities are the warps (all lanes of a warp count as one) and channels: asynchronous operations
// are no part of their thread's program order (8.9.1.1), so each belongs to the channel by which
// its completion can be seen.
//   an mbarrier:        writes of the bulk copies that complete on it; time = its phase
//   bulk groups, read:  reads of a lane's bulk stores; time = number of the group
//   bulk groups, write: their writes
//   wgmma groups:       a warp's reads of operands in shared memory; time = number of the group
//   tcgen05 products:   a lane's operands and accumulators; time = number of the product
//   tcgen05.ld, st:     a warp's accesses to tensor memory; time = number of the instruction
//   cp.async:           a lane's copies, through the generic proxy; time = number of the copy
// A channel's time enters a warp's clocks when the warp has waited: that of cp.async the generic
// one, others both, as their completion is followed by a proxy fence (9.7.9.25.2, 9.7.15.4).
#pragma once

#include <array>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "emulator/check/shadow.h"

namespace jax_fa4::emulator {

struct Cta;
struct Machine;
struct Warp;

enum class ChannelKind : uint8_t {
  kMbarrier,
  kBulkRead,
  kBulkWrite,
  kProducts,
  kTensorProducts,
  kTensorLoads,
  kTensorStores,
  kCopies,
};

struct Channel {
  ChannelKind kind = ChannelKind::kMbarrier;
  uint32_t cta_rank = 0;
  uint32_t key = 0;              // mbarrier: its shared address; others: 32 * warp + lane
  uint32_t count = 0;            // of what its time numbers, where nobody else counts
  std::vector<uint32_t> groups;  // of cp.async: the count when each was committed
  Clock implied;                 // of products: others' that take effect before the latest here
};

// The access that an instruction of `warp` makes, in one or several places.
class Party {
 public:
  Warp* warp = nullptr;
  AccessId id = 0;
  bool write = false;
  bool async = false;
  bool synchronous = false;  // in tensor memory: needs no fence::after_thread_sync
  bool agrees = false;       // memory holds already what it writes

 private:
  friend class RaceDetector;
  struct Replaced {
    ReadersId old = 0;
    ReadersId made = 0;
  };
  AccessId passed_writer_ = 0;
  ReadersId passed_readers_ = 0;
  std::array<Replaced, 16> replaced_;
};

class RaceDetector {
 public:
  explicit RaceDetector(Machine* machine) : machine_(machine) {}

  void BeginCluster();

  // ---- edges
  // `warp` releases: what it knows and did enters `into`. Its time goes on.
  void Release(Warp& warp, ProxyClocks* into);
  void Acquire(Warp& warp, const ProxyClocks& from);
  // The same release by the lanes of `warp` that execute now, each for itself: at level kPtx what
  // other lanes did since the lanes last met is not given on (lanes.cc).
  void ReleaseLanes(Warp& warp, ProxyClocks* into);
  // All lanes of `warp` that did something meet: bar.warp.sync, a barrier of threads that wait.
  void MeetLanes(Warp& warp, uint32_t lanes);
  // `lanes` of `warp` have waited, and what they learn enters the warp's clocks. What lanes that
  // have not waited know is kept apart until all meet: gives these clocks if all such lanes are
  // among `lanes`, so that they learn it, too.
  ProxyClocks* WaitLanes(Warp& warp, uint32_t lanes);
  // The same by a relaxed arrival or wait, which memory models do not see: the tcgen05.fence of
  // either side composes with any instruction that orders execution (PTX ISA 9.7.16.6.3).
  void ReleaseTensor(Warp& warp, ProxyClocks* into);
  void AcquireTensor(Warp& warp, const ProxyClocks& from);
  // Orders the generic accesses that `warp` knows before later ones through the async proxy.
  void FenceProxyAsync(Warp& warp);
  // fence.mbarrier_init, and the relaxed arrival at the cluster's barrier that gives on what it
  // fenced (PTX ISA 9.7.13.4).
  void FenceMbarrierInit(Warp& warp) { Release(warp, &fenced_inits_[Index(warp)]); }
  void ReleaseInits(Warp& warp, ProxyClocks* into) { into->Join(fenced_inits_[Index(warp)]); }
  // A strong access to `address`: it orders both ways with those before it, a little more than the
  // text gives to relaxed ones without a fence (8.8).
  void Strong(Warp& warp, uint64_t address);
  // `lanes` of `warp` have waited for all operations of `channel` up to `time`.
  void Observe(Warp& warp, uint32_t lanes, EntityId channel, uint32_t time);
  void ObserveCopies(Warp& warp, EntityId channel, uint32_t time) {
    ClocksOf(warp).generic.Raise(channel, time);
    apart_[Index(warp)].before.generic.Raise(channel, time);
  }

  EntityId MbarrierChannel(const Cta& cta, uint32_t offset);
  EntityId LaneChannel(const Warp& warp, ChannelKind kind, int lane);
  Channel& ChannelAt(EntityId channel) { return channels_[channel - clocks_.size()]; }
  uint32_t& CountOf(EntityId channel) { return ChannelAt(channel).count; }

  // ---- accesses
  Party Generic(Warp& warp, bool write, uint8_t bytes = 0xf, bool atomic = false);
  // By an asynchronous operation that `warp` starts now.
  Party Async(Warp& warp, bool write, EntityId channel, uint32_t time, bool atomic = false);
  // The same through the generic proxy.
  Party Copy(Warp& warp, bool write, EntityId channel, uint32_t time);
  void VisitShared(Party* party, int lane, const Cta& cta, uint32_t offset, uint32_t bytes);
  void VisitGlobal(Party* party, int lane, uint64_t address, uint32_t bytes);

  // ---- tensor memory (tensor_races.cc)
  // tcgen05.fence::before_thread_sync: what `warp` releases from now on orders its tcgen05
  // instructions up to here; ::after_thread_sync: what it has acquired orders those that follow.
  void FenceBeforeThreadSync(Warp& warp);
  void FenceAfterThreadSync(Warp& warp);
  // `warp` has waited for its tcgen05.ld or st up to number `time` of `channel`.
  void ObserveTensor(Warp& warp, EntityId channel, uint32_t time);
  // What sees an arrival of a tcgen05.commit that is issued now: the products up to it are done.
  ProxyClocks CommitProducts(Warp& warp, int lane);
  // `lanes`: a bit for 8 lanes of the quadrants; `pipeline`: see Access.
  Party Tensor(Warp& warp, bool write, EntityId channel, uint32_t time, uint8_t lanes,
               uint32_t pipeline = 0);
  void VisitTensor(Party* party, int lane, const Cta& cta, uint32_t quadrant, uint32_t column,
                   uint32_t columns);
  // tcgen05.dealloc of columns that nobody may still use.
  void CheckFreeTensor(Warp& warp, const Cta& cta, uint32_t column, uint32_t columns);

  // Whether the access by `bytes` bytes at `address` needs a Party of its own: a part of a word.
  static uint8_t PartOfWord(uint64_t address, uint32_t bytes) {
    return bytes >= 4 ? 0xf : static_cast<uint8_t>(((1u << bytes) - 1) << (address & 3));
  }

  // An operation whose time is known only when it completes: started with kUnfinished and kept.
  void Keep(AccessId id) { accesses_[id].kept = true; }
  void Finish(AccessId id, uint32_t time);

  // The last warp of a CTA exits: nothing asynchronous may still use the CTA's shared memory.
  void CheckExit(Warp& warp);

  // mbarrier.init: its 8 bytes are written; later operations on it must come after.
  void InitMbarrier(Warp& warp, int lane, const Cta& cta, uint32_t offset);
  void UseMbarrier(Warp& warp, int lane, const Cta& cta, uint32_t offset);

 private:
  // A location that threads synchronise through.
  struct StrongLocation {
    uint32_t cluster = 0;
    ProxyClocks clocks;           // of that cluster
    std::set<uint32_t> clusters;  // that came before
  };

  // What a warp's lanes did since they met, and what the warp had done then.
  struct Apart {
    uint32_t lanes = 0;
    uint32_t generic = 0;
    uint32_t async = 0;
    uint32_t tensor_loads = 0;
    uint32_t tensor_stores = 0;
    uint32_t withheld = 0;  // what was done up to then was not given on
    uint32_t waited = 0;    // lanes that have waited for what others have not; 0: nothing is apart
    ProxyClocks before;     // what these others know, tensor memory and the warp's own apart
  };

  uint32_t Index(const Warp& warp) const;
  ProxyClocks& ClocksOf(const Warp& warp) { return clocks_[Index(warp)]; }
  EntityId FindChannel(ChannelKind kind, uint32_t cta_rank, uint32_t key);
  Party MakeParty(Warp& warp, Access access);
  // What `warp` gives on of tensor memory when it releases.
  // What `warp` releases from now on orders its tcgen05 instructions up to here.
  void RelayTensor(Warp& warp);
  Clock& RelayedTensor(const Warp& warp);
  bool Ordered(const Access& earlier, const Party& later, int lane, ShadowSpace space);
  bool TensorOrdered(const Access& earlier, const Party& later);
  // Whether the lanes of `earlier`, of the same warp, have met those that start `later`.
  bool LanesMet(const Access& earlier, const Party& later);
  // The lanes of `later` that have not waited for what others have.
  uint32_t LanesBehind(const Party& later) const;
  // What `lane` of `later` knows, or all of its lanes where it is negative, about `earlier`.
  const ProxyClocks& KnownTo(const Access& earlier, const Party& later, int lane);
  void CheckWriter(Party* party, int lane, AccessId writer, ShadowSpace space, uint64_t address);
  void CheckReaders(Party* party, int lane, ReadersId readers, ShadowSpace space, uint64_t address);
  ReadersId WithReader(Party* party, ReadersId old);
  void Visit(Party* party, int lane, ShadowWords* shadow, size_t first, size_t count,
             ShadowSpace space, uint64_t address);
  void Collect();
  void Mark(const ShadowWords& shadow);
  [[noreturn]] void ReportRace(const Access& earlier, const Party& later, int lane,
                               ShadowSpace space, uint64_t address);
  std::string Describe(const Access& access) const;
  std::string MissingEdge(const Access& earlier, const Party& later, int lane);
  std::string NotWaited(const Access& earlier);
  std::string MissingTensorEdge(const Access& earlier, const Party& later);
  const Channel& ChannelOf(const Access& access) const {
    return channels_[access.entity - clocks_.size()];
  }
  uint32_t IssuerOf(const Access& access, const Party& later) const;

  Machine* machine_;
  uint32_t cluster_ = 0;
  std::vector<ProxyClocks> clocks_;  // of the warps
  std::vector<Apart> apart_;         // of the warps
  std::vector<ProxyClocks> fenced_inits_;
  std::vector<Clock> relayed_tensor_;      // at level kPtx
  std::vector<uint32_t> fenced_products_;  // a warp's time at its last fence::before_thread_sync
  bool uses_tensor_memory_ = false;
  std::unordered_map<uint64_t, StrongLocation> strong_;
  std::set<uint32_t> earlier_clusters_;  // that this cluster has synchronised with
  std::vector<Channel> channels_;        // entity - number of warps
  std::map<std::tuple<int, uint32_t, uint32_t>, EntityId> channel_ids_;
  std::vector<ShadowWords> shared_;                                    // by CTA rank
  std::vector<ShadowWords> tensor_;                                    // by CTA rank
  std::unordered_map<uint64_t, std::unique_ptr<ShadowWords>> global_;  // by page
  Pool<Access> accesses_;
  Pool<Readers> readers_;
};

}  // namespace jax_fa4::emulator
