// atom and red (PTX ISA, "atom", "red"). Lanes take their turns in order.
#include <algorithm>
#include <cmath>

#include "emulator/isa/half.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

template <typename T>
T Add(T old, T value) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(static_cast<U>(old) + static_cast<U>(value));
  } else {
    const float sum = old + value;
    return std::isnan(sum) ? FloatOf(0x7fffffffu) : sum;
  }
}

float Flush(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

// "atom.add.f32 on global memory flushes subnormal inputs and results to sign-preserving zero"; on
// shared memory it does not.
float AddGlobal(float old, float value) { return Flush(Add<float>(Flush(old), Flush(value))); }
template <typename T>
T Min(T old, T value) {
  return std::min(old, value);
}
template <typename T>
T Max(T old, T value) {
  return std::max(old, value);
}
template <typename T>
T And(T old, T value) {
  return old & value;
}
template <typename T>
T Or(T old, T value) {
  return old | value;
}
template <typename T>
T Xor(T old, T value) {
  return old ^ value;
}
template <typename T>
T Exchange(T, T value) {
  return value;
}

uint8_t* Place(Warp& warp, const Op& op, int lane, uint32_t size) {
  const uint64_t base =
      (op.small & 8) != 0 ? warp.Lanes<uint64_t>(op.a)[lane] : warp.Lanes<uint32_t>(op.a)[lane];
  const uint64_t address = base + static_cast<uint64_t>(op.immediate);
  Machine* machine = warp.machine;
  RaceDetector* races = machine->races.get();
  Party party;
  if (races != nullptr) {
    races->Strong(warp, address);
    party = races->Generic(warp, true, 0xf, true);
  }
  if (op.target == 0) {
    uint8_t* place = machine->Global(warp, lane, address, size, true);
    if (races != nullptr) races->VisitGlobal(&party, lane, address, size);
    return place;
  }
  if (races != nullptr) {
    races->VisitShared(&party, lane, machine->CtaOf(warp, lane, address),
                       static_cast<uint32_t>(address & 0xffffff), size);
  }
  machine->Shared(warp, lane, address, size, false);  // it is read, too
  return machine->Shared(warp, lane, address, size, true);
}

// d = [a]; [a] = Function([a], b). op.target = 1 for shared memory; op.d may be kNoSlot.
template <typename T, T (*kFunction)(T, T)>
Step Atomic(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    uint8_t* at = Place(warp, op, lane, sizeof(T));
    T old, value;
    std::memcpy(&old, at, sizeof(T));
    std::memcpy(&value, warp.Lanes<T>(op.b) + lane, sizeof(T));
    const T result = kFunction(old, value);
    std::memcpy(at, &result, sizeof(T));
    if (op.d != kNoSlot) std::memcpy(warp.Lanes<T>(op.d) + lane, &old, sizeof(T));
  });
  ++warp.machine->version;
  return Step::kNext;
}

// Sums of each of op.count floats from [a] on; op.first = their slots.
Step AddVector(Warp& warp, const Op& op) {
  const Slot* slots = warp.machine->program.slots.data() + op.first;
  ForLanes(warp.exec, [&](int lane) {
    uint8_t* at = Place(warp, op, lane, op.count * sizeof(float));
    for (uint32_t i = 0; i < op.count; ++i, at += sizeof(float)) {
      float old;
      std::memcpy(&old, at, sizeof(float));
      const float sum = AddGlobal(old, warp.Lanes<float>(slots[i])[lane]);
      std::memcpy(at, &sum, sizeof(float));
    }
  });
  ++warp.machine->version;
  return Step::kNext;
}

// d = [a]; if it equals b, [a] = c.
template <typename T>
Step CompareAndSwap(Warp& warp, const Op& op) {
  ForLanes(warp.exec, [&](int lane) {
    uint8_t* at = Place(warp, op, lane, sizeof(T));
    T old;
    std::memcpy(&old, at, sizeof(T));
    if (old == warp.Lanes<T>(op.b)[lane]) std::memcpy(at, warp.Lanes<T>(op.c) + lane, sizeof(T));
    warp.Lanes<T>(op.d)[lane] = old;
  });
  ++warp.machine->version;
  return Step::kNext;
}

template <typename T>
Handler Arithmetic(std::string_view what) {
  if (what == "add") return Atomic<T, Add<T>>;
  if (what == "min") return Atomic<T, Min<T>>;
  if (what == "max") return Atomic<T, Max<T>>;
  return nullptr;
}

template <typename T>
Handler Bitwise(std::string_view what) {
  if (what == "and") return Atomic<T, And<T>>;
  if (what == "or") return Atomic<T, Or<T>>;
  if (what == "xor") return Atomic<T, Xor<T>>;
  if (what == "exch") return Atomic<T, Exchange<T>>;
  if (what == "cas") return CompareAndSwap<T>;
  return nullptr;
}

Handler HandlerOf(std::string_view what, std::string_view type, bool global) {
  if (type == "s32") return Arithmetic<int32_t>(what);
  if (type == "u32") return Arithmetic<uint32_t>(what);
  if (type == "s64" && what != "add") return Arithmetic<int64_t>(what);
  if (type == "u64") return Arithmetic<uint64_t>(what);
  if (type == "b32") return Bitwise<uint32_t>(what);
  if (type == "b64") return Bitwise<uint64_t>(what);
  if (type == "f32" && what == "add") {
    return global ? Handler(Atomic<float, AddGlobal>) : Atomic<float, Add<float>>;
  }
  return nullptr;
}

// red.global.add.{v2,v4}.f32 [a], {b0, b1, ...}
void DecodeVector(Decoder& decoder, const Instruction& instruction, uint32_t elements, Op* op) {
  decoder.ExpectOperands(instruction, 2);
  decoder.Address(instruction.operands[0], 8, op);
  if (decoder.Elements(instruction.operands[1], 4, false, op) != elements) {
    decoder.Fail(instruction.operands[1], "not as many registers as the vector has elements");
  }
  op->target = 0;
  op->run = AddVector;
}

void DecodeAtomic(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const bool returns = instruction.opcode[0] == "atom";
  for (const char* order : {"relaxed", "acquire", "release", "acq_rel"}) {
    if (modifiers.Take(order)) break;
  }
  for (const char* scope : {"cta", "cluster", "gpu", "sys"}) {
    if (modifiers.Take(scope)) break;
  }
  const bool global = modifiers.OneOf({"global", "shared", "shared::cta"}) == "global";
  const std::string_view what = modifiers.Next();
  const uint32_t elements = modifiers.Take("v4") ? 4 : modifiers.Take("v2") ? 2 : 1;
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  if (elements > 1 && !returns && global && what == "add" && type == "f32") {
    return DecodeVector(decoder, instruction, elements, op);
  }
  if (elements > 1) decoder.Fail(instruction, "of vectors, only sums of f32 in global memory");
  op->run = what == "cas" && !returns ? nullptr : HandlerOf(what, type, global);
  if (op->run == nullptr) decoder.Fail(instruction, "this operation is not supported");
  const size_t sources = what == "cas" ? 2 : 1;
  const size_t first = returns ? 1 : 0;
  decoder.ExpectOperands(instruction, first + 1 + sources);
  const int bytes = LaneBytes(type);
  if (returns) op->d = decoder.Destination(instruction.operands[0], bytes);
  decoder.Address(instruction.operands[first], global ? 8 : 0, op);
  op->b = decoder.Source(instruction.operands[first + 1], bytes);
  if (sources == 2) op->c = decoder.Source(instruction.operands[first + 2], bytes);
  op->target = global ? 0 : 1;
}

}  // namespace

void RegisterAtomic(InstructionTable* table) {
  (*table)["atom"] = DecodeAtomic;
  (*table)["red"] = DecodeAtomic;
}

}  // namespace jax_fa4::emulator
