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
// A channel's time enters a warp's clocks, both of them, when the warp has waited: completion is
// followed by an implicit proxy fence (9.7.9.25.2, 9.7.15.4).
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

enum class ChannelKind : uint8_t { kMbarrier, kBulkRead, kBulkWrite, kProducts };

struct Channel {
  ChannelKind kind = ChannelKind::kMbarrier;
  uint32_t cta_rank = 0;
  uint32_t key = 0;  // mbarrier: its shared address; others: 32 * warp + lane
};

// The access that an instruction of `warp` makes, in one or several places.
class Party {
 public:
  Warp* warp = nullptr;
  AccessId id = 0;
  bool write = false;
  bool async = false;
  bool agrees = false;  // memory holds already what it writes

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
  // Orders the generic accesses that `warp` knows before later ones through the async proxy.
  void FenceProxyAsync(Warp& warp);
  // fence.mbarrier_init, and the relaxed arrival at the cluster's barrier that gives on what it
  // fenced (PTX ISA 9.7.13.4).
  void FenceMbarrierInit(Warp& warp) { Release(warp, &fenced_inits_[Index(warp)]); }
  void ReleaseInits(Warp& warp, ProxyClocks* into) { into->Join(fenced_inits_[Index(warp)]); }
  // A strong access to `address`: it orders both ways with those before it, a little more than the
  // text gives to relaxed ones without a fence (8.8).
  void Strong(Warp& warp, uint64_t address);
  // `warp` has waited for all operations of `channel` up to `time`.
  void Observe(Warp& warp, EntityId channel, uint32_t time);

  EntityId MbarrierChannel(const Cta& cta, uint32_t offset);
  EntityId LaneChannel(const Warp& warp, ChannelKind kind, int lane);

  // ---- accesses
  Party Generic(Warp& warp, bool write, uint8_t bytes = 0xf, bool atomic = false);
  // By an asynchronous operation that `warp` starts now.
  Party Async(Warp& warp, bool write, EntityId channel, uint32_t time, bool atomic = false);
  void VisitShared(Party* party, int lane, const Cta& cta, uint32_t offset, uint32_t bytes);
  void VisitGlobal(Party* party, int lane, uint64_t address, uint32_t bytes);
  // Whether the access by `bytes` bytes at `address` needs a Party of its own: a part of a word.
  static uint8_t PartOfWord(uint64_t address, uint32_t bytes) {
    return bytes >= 4 ? 0xf : static_cast<uint8_t>(((1u << bytes) - 1) << (address & 3));
  }

  // An operation whose time is known only when it completes: started with kUnfinished and kept.
  void Keep(AccessId id) { accesses_[id].kept = true; }
  void Finish(AccessId id, uint32_t time);

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

  uint32_t Index(const Warp& warp) const;
  ProxyClocks& ClocksOf(const Warp& warp) { return clocks_[Index(warp)]; }
  Party MakeParty(Warp& warp, Access access);
  bool Ordered(const Access& earlier, const Party& later);
  void CheckWriter(Party* party, int lane, AccessId writer, bool shared, uint64_t address);
  void CheckReaders(Party* party, int lane, ReadersId readers, bool shared, uint64_t address);
  ReadersId WithReader(Party* party, ReadersId old);
  void Visit(Party* party, int lane, ShadowWords* shadow, size_t first, size_t count, bool shared,
             uint64_t address);
  void Collect();
  void Mark(const ShadowWords& shadow);
  [[noreturn]] void ReportRace(const Access& earlier, const Party& later, int lane, bool shared,
                               uint64_t address);
  std::string Describe(const Access& access) const;
  std::string MissingEdge(const Access& earlier, const Party& later);
  std::string NotWaited(const Access& earlier);

  Machine* machine_;
  uint32_t cluster_ = 0;
  std::vector<ProxyClocks> clocks_;  // of the warps
  std::vector<ProxyClocks> fenced_inits_;
  std::unordered_map<uint64_t, StrongLocation> strong_;
  std::set<uint32_t> earlier_clusters_;  // that this cluster has synchronised with
  std::vector<Channel> channels_;        // entity - number of warps
  std::map<std::tuple<int, uint32_t, uint32_t>, EntityId> channel_ids_;
  std::vector<ShadowWords> shared_;                                    // by CTA rank
  std::unordered_map<uint64_t, std::unique_ptr<ShadowWords>> global_;  // by page
  Pool<Access> accesses_;
  Pool<Readers> readers_;
};

}  // namespace jax_fa4::emulator
