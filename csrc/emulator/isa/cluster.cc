// Clusters of CTAs: barrier.cluster and mapa (PTX ISA, "barrier.cluster", "mapa").
#include "emulator/isa/cluster.h"

#include <algorithm>

#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// Every thread of the cluster that has not exited has arrived.
bool Complete(Cluster* cluster) {
  for (auto& cta : cluster->ctas) {
    for (auto& warp : cta->warps) {
      for (uint32_t rest = warp->alive; rest != 0; rest &= rest - 1) {
        if (warp->cluster_arrivals[__builtin_ctz(rest)] != cluster->barrier_phase) return false;
      }
    }
  }
  ++cluster->barrier_phase;
  cluster->completed.Join(cluster->arriving);
  ++cluster->machine->version;
  return true;
}

// op.small = 1: relaxed, orders nothing but fenced mbarrier inits.
Step Arrive(Warp& warp, const Op& op) {
  Cluster* cluster = warp.cta->cluster;
  RaceDetector* races = warp.machine->races.get();
  if (races != nullptr && op.small == 0) races->Release(warp, &cluster->arriving);
  if (races != nullptr && op.small == 1) races->ReleaseInits(warp, &cluster->arriving);
  ForLanes(warp.exec, [&](int lane) {
    if (warp.cluster_arrivals[lane] != 0) {
      warp.Report("barrier-count", "a second arrival at the cluster's barrier without a wait",
                  lane);
    }
    warp.cluster_arrivals[lane] = cluster->barrier_phase;
  });
  warp.Note(0, cluster->barrier_phase, 0);
  Complete(cluster);
  return Step::kNext;
}

Step Wait(Warp& warp, const Op&) {
  Cluster* cluster = warp.cta->cluster;
  bool open = false;
  ForLanes(warp.exec, [&](int lane) {
    if (warp.cluster_arrivals[lane] == 0) {
      warp.Report("barrier-count", "a wait at the cluster's barrier without an arrival", lane);
    }
    open = open || warp.cluster_arrivals[lane] == cluster->barrier_phase;
  });
  warp.Note(0, cluster->barrier_phase, 0);
  // Exits may complete the barrier, too.
  if (open && !Complete(cluster)) {
    return warp.Wait("barrier.cluster.wait: not every thread of the cluster has arrived");
  }
  ForLanes(warp.exec, [&](int lane) { warp.cluster_arrivals[lane] = 0; });
  RaceDetector* races = warp.machine->races.get();
  if (races != nullptr) races->Acquire(warp, cluster->completed);
  if (races != nullptr) races->MeetLanes(warp, warp.exec);
  return Step::kNext;
}

// d = the address in CTA b of what is at a in its own CTA.
template <typename Lane>
Step Mapa(Warp& warp, const Op& op) {
  Lane* d = warp.Lanes<Lane>(op.d);
  const Lane* a = warp.Lanes<Lane>(op.a);
  const uint32_t* b = warp.Lanes<uint32_t>(op.b);
  // Of a CTA that the cluster lacks too it is an address; who uses it is told.
  ForLanes(warp.exec, [&](int lane) {
    const Lane rank = std::min<uint32_t>(b[lane], 0xff);
    d[lane] = (a[lane] & 0xffffffu) | rank << 24;
  });
  return Step::kNext;
}

void DecodeMapa(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"shared::cluster"});
  const int bytes = modifiers.OneOf({"u32", "u64"}) == "u32" ? 4 : 8;
  modifiers.Done();
  decoder.ExpectOperands(instruction, 3);
  op->run = bytes == 4 ? Handler(Mapa<uint32_t>) : Handler(Mapa<uint64_t>);
  op->d = decoder.Destination(instruction.operands[0], bytes);
  op->a = decoder.Source(instruction.operands[1], bytes);
  op->b = decoder.Source(instruction.operands[2], 4);
}

}  // namespace

void DecodeClusterBarrier(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                          Op* op) {
  const bool waits = modifiers->OneOf({"arrive", "wait"}) == "wait";
  if (waits) {
    modifiers->Take("acquire");
  } else if (!modifiers->Take("release")) {
    op->small = modifiers->Take("relaxed") ? 1 : 0;
  }
  op->converged = modifiers->Take("aligned");
  modifiers->Done();
  decoder.ExpectOperands(instruction, 0);
  op->run = waits ? Wait : Arrive;
}

void RegisterCluster(InstructionTable* table) { (*table)["mapa"] = DecodeMapa; }

}  // namespace jax_fa4::emulator
