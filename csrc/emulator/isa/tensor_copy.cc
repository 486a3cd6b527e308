// Copies of tensors' boxes (PTX ISA, "cp.async.bulk.tensor").
#include <array>

#include "emulator/async/box.h"
#include "emulator/async/mbarriers.h"
#include "emulator/isa/copy.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/tensor_box.h"

namespace jax_fa4::emulator {
namespace {

uint64_t Value(Warp& warp, Slot slot, int bytes, int lane) {
  return bytes == 8 ? warp.Lanes<uint64_t>(slot)[lane] : warp.Lanes<uint32_t>(slot)[lane];
}

std::array<int32_t, 5> Coordinates(Warp& warp, const Op& op, int lane) {
  std::array<int32_t, 5> at = {};
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  for (uint32_t i = 0; i < op.count; ++i) at[i] = warp.Lanes<int32_t>(slots[i])[lane];
  return at;
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

}  // namespace

// cp.async.bulk.prefetch.tensor.2d.L2.global.tile [map, {c0, c1}], with a cache hint.
void DecodeTensorPrefetch(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                          Op* op) {
  const std::string_view rank = modifiers->OneOf({"1d", "2d", "3d", "4d", "5d"});
  modifiers->OneOf({"L2"});
  modifiers->OneOf({"global"});
  modifiers->Take("tile");
  const bool hint = modifiers->Take("L2::cache_hint");
  modifiers->Done();
  decoder.ExpectOperands(instruction, 1u + (hint ? 1u : 0u));
  MapOperand(decoder, instruction.operands[0], static_cast<uint32_t>(rank[0] - '0'), op);
  op->run = PrefetchTensor;
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

}  // namespace jax_fa4::emulator
