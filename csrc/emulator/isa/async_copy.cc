// cp.async without .bulk (PTX ISA, "cp.async", "cp.async.mbarrier.arrive"). Those of one thread
// take effect in order, so that an arrival can stand behind them in the same queue.
#include "emulator/async/mbarriers.h"
#include "emulator/isa/bulk.h"
#include "emulator/isa/lanes.h"
#include "emulator/isa/tcgen05.h"

namespace jax_fa4::emulator {
namespace {

uint64_t CopyQueue(const Warp& warp, int lane) {
  return TensorQueue(warp, lane) | uint64_t{1} << 63;
}

// op.d + op.target = shared address, op.a + op.immediate = global address, op.count = bytes, op.b =
// bytes to read or kNoSlot, the others become zeros; op.small = bytes of d's register.
Step Copy(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(warp.exec, [&](int lane) {
    const uint32_t bytes = op.count;
    const uint64_t shared =
        AddressValue(warp, op.d, op.small, lane) + static_cast<uint64_t>(int64_t{op.target});
    const uint64_t global = warp.Lanes<uint64_t>(op.a)[lane] + static_cast<uint64_t>(op.immediate);
    const uint32_t reads = op.b == kNoSlot ? bytes : warp.Lanes<uint32_t>(op.b)[lane];
    if (reads > bytes) {
      warp.Report("out-of-bounds", "cp.async reads more bytes than it writes", lane);
    }
    if (reads != 0) machine->Global(warp, lane, global, reads, false);
    uint8_t* to = machine->Shared(warp, lane, shared, bytes, true);
    uint8_t* initialised =
        machine->CtaOf(warp, lane, shared).shared_initialised.data() + (shared & 0xffffff);
    std::memset(initialised, 0, bytes);
    BulkGroups* groups = &warp.copies[lane];
    const uint64_t group = JoinGroup(groups);
    machine->Start(CopyQueue(warp, lane), [=] {
      if (reads != 0) std::memcpy(to, reinterpret_cast<const uint8_t*>(global), reads);
      std::memset(to + reads, 0, bytes - reads);
      std::memset(initialised, 1, bytes);
      LeaveGroup(groups, group);
    });
  });
  return Step::kNext;
}

Step Commit(Warp& warp, const Op&) {
  ForLanes(warp.exec, [&](int lane) { CommitGroup(&warp.copies[lane]); });
  return Step::kNext;
}

Step WaitGroup(Warp& warp, const Op& op) {
  bool done = true;
  ForLanes(warp.exec, [&](int lane) {
    done = done && GroupsDone(warp.copies[lane], op.immediate, false);
    if (op.small != 0) done = done && warp.copies[lane].open == 0;
  });
  if (!done) return warp.Wait("cp.async.wait_group: copies are under way");
  ForLanes(warp.exec, [&](int lane) { ForgetDoneGroups(&warp.copies[lane]); });
  return Step::kNext;
}

// Arrives when the thread's copies up to here are done.
Step Arrive(Warp& warp, const Op& op) {
  Machine* machine = warp.machine;
  ForLanes(warp.exec, [&](int lane) {
    const uint64_t address =
        AddressValue(warp, op.a, op.small, lane) + static_cast<uint64_t>(op.immediate);
    Cta* cta = &machine->CtaOf(warp, lane, address);
    MbarrierAt(warp, lane, address);
    const Origin origin(warp, lane);
    machine->Start(CopyQueue(warp, lane), [=] {
      const std::string wrong =
          ArriveFromEngine(machine, cta, static_cast<uint32_t>(address & 0xffffff));
      if (!wrong.empty()) origin.Report("mbarrier", wrong);
    });
  });
  return Step::kNext;
}

}  // namespace

void DecodeAsyncCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op) {
  const std::string_view what =
      modifiers->OneOf({"ca", "cg", "commit_group", "wait_group", "wait_all", "mbarrier"});
  if (what == "mbarrier") {
    modifiers->OneOf({"arrive"});
    modifiers->OneOf({"noinc"});
    modifiers->OneOf({"shared", "shared::cta"});
    modifiers->OneOf({"b64"});
    modifiers->Done();
    decoder.ExpectOperands(instruction, 1);
    decoder.Address(instruction.operands[0], 0, op);
    op->run = Arrive;
    return;
  }
  if (what != "ca" && what != "cg") {
    modifiers->Done();
    decoder.ExpectOperands(instruction, what == "wait_group" ? 1 : 0);
    if (what == "wait_group") {
      op->immediate = static_cast<int64_t>(decoder.Immediate(instruction.operands[0]));
    }
    op->small = what == "wait_all" ? 1 : 0;
    op->run = what == "commit_group" ? Commit : WaitGroup;
    return;
  }
  modifiers->OneOf({"shared", "shared::cta"});
  modifiers->OneOf({"global"});
  for (const char* hint : {"L2::64B", "L2::128B", "L2::256B"}) modifiers->Take(hint);
  modifiers->Done();
  const size_t count = instruction.operands.size();
  if (count != 3 && count != 4) decoder.Fail(instruction, "three or four operands are expected");
  decoder.Address(instruction.operands[1], 8, op);
  Op shared;
  decoder.Address(instruction.operands[0], 0, &shared);
  op->d = shared.a;
  op->target = static_cast<int32_t>(shared.immediate);
  op->small = shared.small;
  const uint64_t bytes = decoder.Immediate(instruction.operands[2]);
  if (bytes != 16 && (what == "cg" || (bytes != 4 && bytes != 8))) {
    decoder.Fail(instruction, "a copy of " + std::to_string(bytes) + " bytes");
  }
  op->count = static_cast<uint32_t>(bytes);
  if (count == 4) op->b = decoder.Source(instruction.operands[3], 4);
  op->run = Copy;
}

}  // namespace jax_fa4::emulator
