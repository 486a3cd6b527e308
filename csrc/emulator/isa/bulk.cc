// Bulk asynchronous copies (PTX ISA, "cp.async.bulk", "cp.async.bulk.tensor").
#include <algorithm>
#include <array>

#include "emulator/async/box.h"
#include "emulator/async/mbarriers.h"
#include "emulator/async/tensor_map.h"
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

uint64_t Value(Warp& warp, Slot slot, int bytes, int lane) {
  return bytes == 8 ? warp.Lanes<uint64_t>(slot)[lane] : warp.Lanes<uint32_t>(slot)[lane];
}

TensorMap MapAt(Warp& warp, int lane, uint64_t address) {
  const std::vector<uint8_t>& parameters = warp.machine->launch.parameters;
  const uint8_t* bytes = nullptr;
  if ((address & kWindowMask) == kParameterWindow) {
    const uint64_t offset = address & ~kWindowMask;
    if (offset + 128 > parameters.size()) {
      warp.Report("out-of-bounds", "a tensor map past the parameters", lane);
    }
    if (offset % 64 != 0) warp.Report("misaligned", "a tensor map not aligned to 64 bytes", lane);
    bytes = parameters.data() + offset;
  } else {
    bytes = warp.machine->Global(warp, lane, address, 128, false);
  }
  TensorMap map;
  const std::string wrong = ReadTensorMap(bytes, &map);
  if (!wrong.empty()) warp.Report("tensor-map", "the tensor map has " + wrong, lane);
  return map;
}

// Checks a box's global side, and tells the race detector of it.
void CheckBox(Warp& warp, int lane, const TensorMap& map, const std::array<int32_t, 5>& at,
              bool write, GlobalRuns* runs) {
  Machine* machine = warp.machine;
  const uint32_t element = static_cast<uint32_t>(map.element_bytes);
  ForBox(map, at, [&](uint32_t, uint64_t address, uint32_t bytes) {
    if (address == 0) return;
    machine->Global(warp, lane, address, element, write);
    if (machine->LastGlobalHolds(address, bytes)) return runs->Add(address, bytes);
    for (uint32_t done = 0; done < bytes; done += element) {
      machine->Global(warp, lane, address + done, element, write);
      runs->Add(address + done, element);
    }
  });
}

std::array<int32_t, 5> Coordinates(Warp& warp, const Op& op, int lane) {
  std::array<int32_t, 5> at = {};
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  for (uint32_t i = 0; i < op.count; ++i) at[i] = warp.Lanes<int32_t>(slots[i])[lane];
  return at;
}

// The rank in the opcode is the map's.
void CheckRank(Warp& warp, const Op& op, const TensorMap& map, int lane) {
  if (map.rank != static_cast<int>(op.count)) {
    warp.Report("tensor-map",
                "a map of " + std::to_string(map.rank) + " dimensions in a copy of " +
                    std::to_string(op.count),
                lane);
  }
}

// Where a box may begin: at 16 bytes (PTX ISA 5.5.3.1), and for a store at no negative coordinate
// (9.7.9.27.1.2). An H100 gives up with an illegal instruction.
void CheckCorner(Warp& warp, const TensorMap& map, const std::array<int32_t, 5>& at, bool stores,
                 int lane) {
  const int64_t first = int64_t{at[0]} * map.element_bytes;
  if (first % 16 != 0) {
    warp.Report("misaligned",
                "a box that begins " + std::to_string(first) +
                    " bytes from the tensor's first, which is no multiple of 16",
                lane);
  }
  for (int axis = 0; stores && axis < map.rank; ++axis) {
    if (at[axis] >= 0) continue;
    warp.Report("tensor-map",
                "a store to coordinate " + std::to_string(at[axis]) + " of dimension " +
                    std::to_string(axis) + ", which is negative",
                lane);
  }
}

void CheckShared(Warp& warp, const TensorMap& map, uint64_t shared, int lane) {
  if (shared % 128 != 0) {
    warp.Report("misaligned", "the box's shared address is not aligned to 128 bytes", lane);
  }
  const uint32_t span = map.swizzle == 0 ? 256u * 16 : 16u << map.swizzle;
  if (map.swizzle != 0 && map.box[0] * static_cast<uint32_t>(map.element_bytes) > span) {
    warp.Report("tensor-map", "a box wider than its swizzle", lane);
  }
  if (map.BoxBytes() > kSharedBytes) {
    warp.Report(
        "out-of-bounds",
        "a box of " + std::to_string(map.BoxBytes()) + " bytes is larger than a CTA's memory",
        lane);
  }
  if (map.swizzle != 0 && map.BoxBytes() % span != 0) {
    warp.Report("tensor-map", "a swizzled box of broken rows", lane);
  }
}

// op.d + op.target = shared address.
uint64_t SharedAddress(Warp& warp, const Op& op, int lane) {
  return Value(warp, op.d, op.small & 12, lane) + static_cast<uint64_t>(int64_t{op.target});
}

// A CTA that gets a box, and the CTA whose mbarrier learns of it.
struct Receiver {
  Cta* cta;
  Cta* barrier_cta;
};

// op.c = mask of CTAs for a multicast, or kNoSlot; op.small & 1: .cta_group::2.
std::vector<Receiver> Receivers(Warp& warp, const Op& op, int lane, uint64_t shared,
                                uint64_t barrier) {
  Machine* machine = warp.machine;
  const uint64_t barrier_rank = barrier >> 24;
  const bool pair = (op.small & 1) != 0;
  if (op.c == kNoSlot) {
    const uint64_t distance = (shared >> 24) ^ barrier_rank;
    if (distance > (pair ? 1u : 0u)) {
      warp.Report("mbarrier",
                  "a box in CTA " + std::to_string(shared >> 24) + " signals an mbarrier of CTA " +
                      std::to_string(barrier_rank),
                  lane);
    }
    return {{&machine->CtaOf(warp, lane, shared), &machine->CtaOf(warp, lane, barrier)}};
  }
  std::vector<Receiver> receivers;
  const uint32_t mask = warp.Lanes<uint32_t>(op.c)[lane] & 0xffffu;
  for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
    const uint64_t rank = static_cast<uint64_t>(__builtin_ctz(rest));
    const uint64_t to = pair ? (rank & ~uint64_t{1}) | (barrier_rank & 1) : rank;
    receivers.push_back(
        {&machine->CtaOf(warp, lane, rank << 24), &machine->CtaOf(warp, lane, to << 24)});
  }
  return receivers;
}

// Lets box `map` at `at` arrive in one CTA.
void StartLoad(Warp& warp, int lane, const TensorMap& map, const std::array<int32_t, 5>& at,
               const Receiver& receiver, uint32_t begin, uint32_t barrier) {
  Machine* machine = warp.machine;
  const uint32_t bytes = static_cast<uint32_t>(map.BoxBytes());
  const uint64_t rank = uint64_t{receiver.cta->rank} << 24;
  machine->Shared(warp, lane, rank | begin, bytes, true);
  const uint64_t signalled = uint64_t{receiver.barrier_cta->rank} << 24 | barrier;
  warp.Note(signalled, MbarrierAt(warp, lane, signalled).phase, bytes);
  // Until it completes the box holds nothing that may be read.
  std::memset(receiver.cta->shared_initialised.data() + begin, 0, bytes);
  std::memset(receiver.cta->shared.data() + begin, 0xff, bytes);
  WatchedLoad watched =
      WatchLoad(warp, lane, *receiver.cta, begin, bytes, *receiver.barrier_cta, barrier);
  GlobalRuns runs(warp, lane, false, watched.channel, kUnfinished);
  CheckBox(warp, lane, map, at, false, &runs);
  watched.read = runs.Done();
  machine->Start(machine->NewQueue(), [=] {
    uint8_t* shared = receiver.cta->shared.data();
    ForBox(map, at, [&](uint32_t offset, uint64_t address, uint32_t run) {
      const uint8_t* from = reinterpret_cast<const uint8_t*>(address);
      ForPieces(map, begin, offset, run, [&](uint32_t to, uint32_t done, uint32_t count) {
        if (from != nullptr) {
          std::memcpy(shared + to, from + done, count);
        } else {
          map.Fill(shared + to, count);
        }
      });
    });
    std::memset(receiver.cta->shared_initialised.data() + begin, 1, bytes);
    LoadCompletes(machine, watched, *receiver.barrier_cta, barrier);
    CompleteTransactions(machine, receiver.barrier_cta, barrier, bytes);
  });
}

// op.a = map, op.b + op.immediate = mbarrier; op.small = bytes of d and of b, 4 bits each.
Step TensorLoad(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t shared = SharedAddress(warp, op, lane);
    const uint64_t barrier =
        Value(warp, op.b, op.small >> 4, lane) + static_cast<uint64_t>(op.immediate);
    const TensorMap map = MapAt(warp, lane, warp.Lanes<uint64_t>(op.a)[lane]);
    CheckRank(warp, op, map, lane);
    CheckShared(warp, map, shared, lane);
    const auto at = Coordinates(warp, op, lane);
    CheckCorner(warp, map, at, false, lane);
    for (const Receiver& receiver : Receivers(warp, op, lane, shared, barrier)) {
      StartLoad(warp, lane, map, at, receiver, static_cast<uint32_t>(shared & 0xffffff),
                static_cast<uint32_t>(barrier & 0xffffff));
    }
  });
  return Step::kNext;
}

// The lanes that store a box. By the text of the ISA each does; hardware issues a store once a
// warp, and working kernels let all lanes store the same box.
uint32_t StoringLanes(Warp& warp, const Op& op) {
  if (warp.machine->options.level != Level::kHardware) return warp.exec;
  const int first = __builtin_ctz(warp.exec);
  const auto same = [&](int lane) {
    return SharedAddress(warp, op, lane) == SharedAddress(warp, op, first) &&
           warp.Lanes<uint64_t>(op.a)[lane] == warp.Lanes<uint64_t>(op.a)[first] &&
           Coordinates(warp, op, lane) == Coordinates(warp, op, first);
  };
  uint32_t lanes = 1u << first;
  ForLanes(warp.exec, [&](int lane) {
    if (!same(lane)) lanes |= 1u << lane;
  });
  return lanes;
}

// op.a = map.
Step TensorStore(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(StoringLanes(warp, op), [&](int lane) {
    const uint64_t shared = SharedAddress(warp, op, lane);
    const TensorMap map = MapAt(warp, lane, warp.Lanes<uint64_t>(op.a)[lane]);
    CheckRank(warp, op, map, lane);
    CheckShared(warp, map, shared, lane);
    machine->Shared(warp, lane, shared, static_cast<uint32_t>(map.BoxBytes()), false);
    Cta* cta = &machine->CtaOf(warp, lane, shared);
    const auto at = Coordinates(warp, op, lane);
    CheckCorner(warp, map, at, true, lane);
    const uint32_t begin = static_cast<uint32_t>(shared & 0xffffff);
    BulkGroups& groups = warp.bulk[lane];
    const uint64_t group = groups.first_group + groups.committed.size();
    const EntityId writes = WatchStore(warp, lane, *cta, begin, map.BoxBytes(), group + 1);
    GlobalRuns runs(warp, lane, true, writes, static_cast<uint32_t>(group + 1));
    CheckBox(warp, lane, map, at, true, &runs);
    runs.Done();
    ++groups.open;
    warp.Note(0, group + 1, map.BoxBytes());
    Warp* owner = &warp;
    machine->Start(machine->NewQueue(), [=] {
      ForBox(map, at, [&](uint32_t offset, uint64_t address, uint32_t run) {
        if (address == 0) return;
        uint8_t* to = reinterpret_cast<uint8_t*>(address);
        ForPieces(map, begin, offset, run, [&](uint32_t from, uint32_t done, uint32_t count) {
          std::memcpy(to + done, cta->shared.data() + from, count);
        });
      });
      BulkGroups& done = owner->bulk[lane];
      if (group < done.first_group + done.committed.size()) {
        auto& counts = done.committed[group - done.first_group];
        --counts[0];
        --counts[1];
      } else {
        --done.open;  // it finished before its group was committed
      }
    });
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

// [map, {coordinates}]
void MapOperand(Decoder& decoder, const Operand& operand, uint32_t rank, Op* op) {
  if (operand.elements.size() != 1) decoder.Fail(operand, "[map, {coordinates}] is expected");
  Operand base = operand;
  base.elements.clear();
  Op address;
  decoder.Address(base, 8, &address);
  if (address.immediate != 0) decoder.Fail(operand, "an offset from a tensor map");
  op->a = address.a;
  if (decoder.Elements(operand.elements[0], 4, false, op) != rank) {
    decoder.Fail(operand, "as many coordinates as dimensions are expected");
  }
}

Step PrefetchTensor(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    const TensorMap map = MapAt(warp, lane, warp.Lanes<uint64_t>(op.a)[lane]);
    CheckRank(warp, op, map, lane);
    CheckCorner(warp, map, Coordinates(warp, op, lane), false, lane);
  });
  return Step::kNext;
}

// cp.async.bulk.prefetch.tensor.2d.L2.global.tile [map, {c0, c1}], cp.async.bulk.prefetch.L2.global
// [address], bytes; with a cache hint.
void DecodePrefetch(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                    Op* op) {
  const bool tensor = modifiers->Take("tensor");
  std::string_view rank = "0";
  if (tensor) rank = modifiers->OneOf({"1d", "2d", "3d", "4d", "5d"});
  modifiers->OneOf({"L2"});
  modifiers->OneOf({"global"});
  if (tensor) modifiers->Take("tile");
  const bool hint = modifiers->Take("L2::cache_hint");
  modifiers->Done();
  decoder.ExpectOperands(instruction, (tensor ? 1u : 2u) + (hint ? 1u : 0u));
  if (tensor) {
    MapOperand(decoder, instruction.operands[0], static_cast<uint32_t>(rank[0] - '0'), op);
    op->run = PrefetchTensor;
    return;
  }
  decoder.Address(instruction.operands[0], 8, op);
  op->b = decoder.Source(instruction.operands[1], 4);
  op->run = PrefetchBulk;
}

// A shared address; returns the bytes of its register.
uint8_t SharedOperand(Decoder& decoder, const Operand& operand, Slot* slot, int64_t* offset) {
  Op address;
  decoder.Address(operand, 0, &address);
  *slot = address.a;
  *offset = address.immediate;
  return address.small;
}

// 1 or 2 of .cta_group, 0 where it is not given.
int TakeGroup(Modifiers* modifiers) {
  if (modifiers->Take("cta_group::2")) return 2;
  return modifiers->Take("cta_group::1") ? 1 : 0;
}

void DecodeTensorCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                      Op* op) {
  const std::string_view rank = modifiers->OneOf({"1d", "2d", "3d", "4d", "5d"});
  const bool loads = modifiers->OneOf({"shared::cta", "shared::cluster", "global"}) != "global";
  modifiers->OneOf({loads ? "global" : "shared::cta"});
  modifiers->Take("tile");
  modifiers->OneOf({loads ? "mbarrier::complete_tx::bytes" : "bulk_group"});
  const bool multicast = loads && modifiers->Take("multicast::cluster");
  int group = 0;
  if (loads) group = TakeGroup(modifiers);
  const bool hint = modifiers->Take("L2::cache_hint");
  if (loads && group == 0) group = TakeGroup(modifiers);  // compilers write it last
  modifiers->Done();
  decoder.ExpectOperands(instruction, (loads ? 3u : 2u) + (hint ? 1u : 0u) + (multicast ? 1u : 0u));
  const Operand& map = instruction.operands[loads ? 1 : 0];
  const Operand& shared = instruction.operands[loads ? 0 : 1];
  MapOperand(decoder, map, static_cast<uint32_t>(rank[0] - '0'), op);
  int64_t offset = 0;
  op->small = SharedOperand(decoder, shared, &op->d, &offset);
  op->target = static_cast<int32_t>(offset);
  if (op->target != offset) decoder.Fail(shared, "an offset of more than 31 bits");
  op->run = loads ? TensorLoad : TensorStore;
  if (loads) {
    const uint8_t bytes = SharedOperand(decoder, instruction.operands[2], &op->b, &op->immediate);
    op->small = static_cast<uint8_t>(op->small | bytes << 4 | (group == 2 ? 1 : 0));
    if (multicast) op->c = decoder.Source(instruction.operands[3], 4);
  }
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
