// cp in all its forms: groups of bulk copies and prefetches are here.
#include "emulator/check/bulk_watch.h"
#include "emulator/isa/copy.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// Prefetches bring nothing that a kernel could see; their operands must be right all the same.
Step PrefetchBulk(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t address = warp.Lanes<uint64_t>(op.a)[lane] + static_cast<uint64_t>(op.immediate);
    const uint32_t bytes = warp.Lanes<uint32_t>(op.b)[lane];
    if (bytes % 16 != 0) {
      warp.Report("bulk-copy", std::to_string(bytes) + " bytes is no multiple of 16", lane);
    }
    if (address % 16 != 0) warp.Report("misaligned", "a bulk prefetch not aligned to 16", lane);
    if (bytes != 0) warp.machine->Global(warp, lane, address, bytes, false);
  });
  return Step::kNext;
}

Step CommitGroup(Warp& warp, const Op&) {
  ForLanes(warp.exec, [&](int lane) {
    BulkGroups& groups = warp.bulk[lane];
    groups.committed.push_back({groups.open, groups.open});
    groups.open = 0;
    warp.Note(0, groups.first_group + groups.committed.size(), 0);
  });
  return Step::kNext;
}

// Waits until at most op.immediate groups are unfinished; op.small: only their reads count.
Step WaitGroup(Warp& warp, const Op& op) {
  bool done = true;
  ForLanes(warp.exec, [&](int lane) {
    const auto found = warp.bulk.find(lane);
    if (found == warp.bulk.end()) return;
    BulkGroups& groups = found->second;
    const int64_t must = static_cast<int64_t>(groups.committed.size()) - op.immediate;
    for (int64_t i = 0; i < must; ++i) {
      done = done && groups.committed[static_cast<size_t>(i)][op.small != 0 ? 0 : 1] == 0;
    }
  });
  if (!done) return warp.Wait("cp.async.bulk.wait_group: copies are under way");
  ForLanes(warp.exec, [&](int lane) {
    const auto found = warp.bulk.find(lane);
    if (found == warp.bulk.end()) return;
    BulkGroups& groups = found->second;
    const uint64_t total = groups.first_group + groups.committed.size();
    const uint64_t pending = static_cast<uint64_t>(op.immediate);
    const uint64_t waited = total > pending ? total - pending : 0;
    warp.Note(0, waited, 0);
    WatchBulkWait(warp, lane, waited, op.small != 0 ? 0 : waited);
    while (!groups.committed.empty() && groups.committed.front()[1] == 0) {
      groups.committed.pop_front();
      ++groups.first_group;
    }
  });
  return Step::kNext;
}

// cp.async.bulk.prefetch.L2.global [address], bytes; with a cache hint.
void DecodePrefetch(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                    Op* op) {
  if (modifiers->Take("tensor")) return DecodeTensorPrefetch(decoder, instruction, modifiers, op);
  modifiers->OneOf({"L2"});
  modifiers->OneOf({"global"});
  const bool hint = modifiers->Take("L2::cache_hint");
  modifiers->Done();
  decoder.ExpectOperands(instruction, 2u + (hint ? 1u : 0u));
  decoder.Address(instruction.operands[0], 8, op);
  op->b = decoder.Source(instruction.operands[1], 4);
  op->run = PrefetchBulk;
}

void DecodeCp(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const bool reduces = modifiers.Take("reduce");
  modifiers.OneOf({"async"});
  if (reduces || modifiers.Peek() == "bulk") {
    modifiers.OneOf({"bulk"});
  } else {
    DecodeAsyncCopy(decoder, instruction, &modifiers, op);
    return;
  }
  if (reduces) {
    DecodeBulkCopy(decoder, instruction, modifiers.OneOf({"global"}), &modifiers, op);
    return;
  }
  const std::string_view what = modifiers.OneOf({"tensor", "commit_group", "wait_group", "prefetch",
                                                 "global", "shared::cta", "shared::cluster"});
  if (what == "prefetch") return DecodePrefetch(decoder, instruction, &modifiers, op);
  if (what == "global" || what == "shared::cta" || what == "shared::cluster") {
    DecodeBulkCopy(decoder, instruction, what, &modifiers, op);
    return;
  }
  if (what == "tensor") {
    DecodeTensorCopy(decoder, instruction, &modifiers, op);
    return;
  }
  if (what == "commit_group") {
    modifiers.Done();
    decoder.ExpectOperands(instruction, 0);
    op->run = CommitGroup;
    return;
  }
  op->small = modifiers.Take("read") ? 1 : 0;
  modifiers.Done();
  decoder.ExpectOperands(instruction, 1);
  op->immediate = decoder.SmallImmediate(instruction.operands[0]);
  op->run = WaitGroup;
}

}  // namespace

void RegisterBulk(InstructionTable* table) { (*table)["cp"] = DecodeCp; }

}  // namespace jax_fa4::emulator
