// Exchange between the lanes of a warp (PTX ISA, "shfl.sync", "vote.sync", "elect.sync").
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

// True once every lane that the mask names, and that has not exited, is here.
bool Gathered(Warp& warp, uint32_t members) {
  if ((warp.exec & ~members) != 0) {
    warp.Report("divergent", "a lane executes an instruction whose member mask leaves it out");
  }
  return (members & warp.alive & ~warp.exec) == 0;
}

uint32_t MemberMask(Warp& warp, const Op& op) {
  return warp.Lanes<uint32_t>(op.c)[__builtin_ctz(warp.exec)];
}

Step WaitForMembers(Warp& warp) { return warp.Wait("waits for the other lanes of a member mask"); }

enum class Shuffle { kIndex, kButterfly, kUp, kDown };

// d[|p] = value of lane f(lane, b); c = clamp and segment mask; op.immediate = member mask slot.
template <Shuffle kMode>
Step Shfl(Warp& warp, const Op& op) {
  const uint32_t members =
      warp.Lanes<uint32_t>(static_cast<Slot>(op.immediate))[__builtin_ctz(warp.exec)];
  if (!Gathered(warp, members)) return WaitForMembers(warp);
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const uint32_t* b = warp.Lanes<uint32_t>(op.b);
  const uint32_t* c = warp.Lanes<uint32_t>(op.c);
  uint32_t a[32];
  std::memcpy(a, warp.Lanes<uint32_t>(op.a), sizeof(a));
  const OpRegisters& registers = warp.machine->program.op_registers[warp.group().pc];
  const bool carries = warp.registers != nullptr && RegisterChecker::CarriesLack(warp);
  const uint32_t given = carries ? warp.registers->LanesWithValue(warp, registers) : 0;
  uint32_t in_range = 0, known = 0;
  ForLanes(warp.exec, [&](int lane) {
    const int amount = static_cast<int>(b[lane] & 31u);
    const int clamp = static_cast<int>(c[lane] & 31u);
    const int segment = static_cast<int>(c[lane] >> 8 & 31u);
    const int max_lane = (lane & segment) | (clamp & ~segment);
    const int min_lane = lane & segment;
    int from = lane;
    bool valid = false;
    switch (kMode) {
      case Shuffle::kUp:
        from = lane - amount;
        valid = from >= max_lane;
        break;
      case Shuffle::kDown:
        from = lane + amount;
        valid = from <= max_lane;
        break;
      case Shuffle::kButterfly:
        from = lane ^ amount;
        valid = from <= max_lane;
        break;
      case Shuffle::kIndex:
        from = min_lane | (amount & ~segment);
        valid = from <= max_lane;
        break;
    }
    if (!valid) from = lane;
    if ((warp.exec >> from & 1u) == 0) {
      warp.Report("divergent", "reads lane " + std::to_string(from) + ", which does not take part",
                  lane);
    }
    d[lane] = a[from];
    known |= (given >> from & 1u) << lane;
    in_range |= uint32_t{valid} << lane;
  });
  if (carries) warp.registers->Exchange(warp, registers, known);
  if (op.target >= 0) {
    uint32_t& p = warp.Predicate(static_cast<Slot>(op.target));
    p = (p & ~warp.exec) | in_range;
  }
  return Step::kNext;
}

void DecodeShfl(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"sync"});
  const std::string_view mode = modifiers.OneOf({"idx", "bfly", "up", "down"});
  modifiers.OneOf({"b32"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 5);
  const Operand& d = instruction.operands[0];
  op->run = mode == "idx"    ? Handler(Shfl<Shuffle::kIndex>)
            : mode == "bfly" ? Handler(Shfl<Shuffle::kButterfly>)
            : mode == "up"   ? Handler(Shfl<Shuffle::kUp>)
                             : Handler(Shfl<Shuffle::kDown>);
  op->d = decoder.Destination(d, 4);
  op->target = d.second.empty() ? -1 : static_cast<int32_t>(decoder.PredicateNamed(d.second, d));
  op->a = decoder.Source(instruction.operands[1], 4);
  op->b = decoder.Source(instruction.operands[2], 4);
  op->c = decoder.Source(instruction.operands[3], 4);
  op->immediate = decoder.Source(instruction.operands[4], 4);
}

enum class Vote { kAny, kAll, kUniform, kBallot };

template <Vote kMode>
Step VoteSync(Warp& warp, const Op& op) {
  if (!Gathered(warp, MemberMask(warp, op))) return WaitForMembers(warp);
  uint32_t votes = warp.Predicate(op.a);
  if (op.small != 0) votes = ~votes;
  votes &= warp.exec;
  if (kMode == Vote::kBallot) {
    ForLanes(warp.exec, [&](int lane) { warp.Lanes<uint32_t>(op.d)[lane] = votes; });
    return Step::kNext;
  }
  const bool all = votes == warp.exec;
  const bool result = kMode == Vote::kAny   ? votes != 0
                      : kMode == Vote::kAll ? all
                                            : all || votes == 0;
  uint32_t& d = warp.Predicate(op.d);
  d = (d & ~warp.exec) | (result ? warp.exec : 0);
  return Step::kNext;
}

void DecodeVote(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"sync"});
  const std::string_view mode = modifiers.OneOf({"any", "all", "uni", "ballot"});
  modifiers.OneOf({mode == "ballot" ? "b32" : "pred"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 3);
  op->run = mode == "any"   ? Handler(VoteSync<Vote::kAny>)
            : mode == "all" ? Handler(VoteSync<Vote::kAll>)
            : mode == "uni" ? Handler(VoteSync<Vote::kUniform>)
                            : Handler(VoteSync<Vote::kBallot>);
  op->d = mode == "ballot" ? decoder.Destination(instruction.operands[0], 4)
                           : decoder.PredicateDestination(instruction.operands[0]);
  op->a = decoder.PredicateSource(instruction.operands[1]);
  op->small = instruction.operands[1].negated ? 1 : 0;
  op->c = decoder.Source(instruction.operands[2], 4);
}

// The manual promises some leader, the same for the same mask; here the lowest lane.
Step Elect(Warp& warp, const Op& op) {
  if (!Gathered(warp, MemberMask(warp, op))) return WaitForMembers(warp);
  const uint32_t leader = static_cast<uint32_t>(__builtin_ctz(warp.exec));
  ForLanes(warp.exec, [&](int lane) { warp.Lanes<uint32_t>(op.d)[lane] = leader; });
  uint32_t& p = warp.Predicate(op.b);
  p = (p & ~warp.exec) | 1u << leader;
  return Step::kNext;
}

void DecodeElect(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"sync"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 2);
  const Operand& d = instruction.operands[0];
  op->run = Elect;
  op->d = decoder.Destination(d, 4);
  if (d.second.empty()) decoder.Fail(d, "elect.sync gives a register and a predicate, d|p");
  op->b = decoder.PredicateNamed(d.second, d);
  op->c = decoder.Source(instruction.operands[1], 4);
}

}  // namespace

void RegisterShuffle(InstructionTable* table) {
  (*table)["shfl"] = DecodeShfl;
  (*table)["vote"] = DecodeVote;
  (*table)["elect"] = DecodeElect;
}

}  // namespace jax_fa4::emulator
