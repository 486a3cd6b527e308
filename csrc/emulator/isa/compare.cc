// setp (PTX ISA, "Comparison and Selection Instructions").
#include <cmath>

#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

template <typename T>
bool Eq(T a, T b) {
  return a == b;
}
template <typename T>
bool Ne(T a, T b) {
  return a != b;
}
template <typename T>
bool Lt(T a, T b) {
  return a < b;
}
template <typename T>
bool Le(T a, T b) {
  return a <= b;
}
template <typename T>
bool Gt(T a, T b) {
  return a > b;
}
template <typename T>
bool Ge(T a, T b) {
  return a >= b;
}

bool Unordered(float a, float b) { return std::isnan(a) || std::isnan(b); }
bool OrderedNe(float a, float b) { return !Unordered(a, b) && a != b; }
bool Equ(float a, float b) { return Unordered(a, b) || a == b; }
bool Neu(float a, float b) { return Unordered(a, b) || a != b; }
bool Ltu(float a, float b) { return Unordered(a, b) || a < b; }
bool Leu(float a, float b) { return Unordered(a, b) || a <= b; }
bool Gtu(float a, float b) { return Unordered(a, b) || a > b; }
bool Geu(float a, float b) { return Unordered(a, b) || a >= b; }
bool Num(float a, float b) { return !Unordered(a, b); }

// How a third operand of setp goes into its result.
enum class Combination : uint8_t { kNone, kAnd, kOr, kXor };

uint32_t Combine(Combination how, uint32_t a, uint32_t b) {
  switch (how) {
    case Combination::kAnd:
      return a & b;
    case Combination::kOr:
      return a | b;
    case Combination::kXor:
      return a ^ b;
    case Combination::kNone:
      break;
  }
  return a;
}

// d = (a ? b) combined with a predicate, op.c, or kNoSlot = (not (a ? b)) combined with it. The
// predicate's slot is op.target, negated if op.count; how it is combined is op.small.
template <typename T, auto Function>
Step Compare(Warp& warp, const Op& op) {
  using Lane = typename LaneOf<T>::type;
  const Lane* a = warp.Lanes<Lane>(op.a);
  const Lane* b = warp.Lanes<Lane>(op.b);
  uint32_t result = 0;
  ForLanes(warp.exec, [&](int lane) {
    result |= uint32_t{Function(static_cast<T>(a[lane]), static_cast<T>(b[lane]))} << lane;
  });
  const Combination how = static_cast<Combination>(op.small);
  uint32_t with = 0;  // read first: it may be d
  if (how != Combination::kNone) {
    with = warp.Predicate(static_cast<Slot>(op.target)) ^ (op.count != 0 ? ~0u : 0u);
  }
  uint32_t& d = warp.Predicate(op.d);
  d = (d & ~warp.exec) | (Combine(how, result, with) & warp.exec);
  if (op.c != kNoSlot) {
    uint32_t& complement = warp.Predicate(op.c);
    complement = (complement & ~warp.exec) | (Combine(how, ~result, with) & warp.exec);
  }
  return Step::kNext;
}

template <typename T>
Handler IntegerCompare(std::string_view how) {
  if (how == "eq") return Compare<T, Eq<T>>;
  if (how == "ne") return Compare<T, Ne<T>>;
  if (how == "lt" || how == "lo") return Compare<T, Lt<T>>;
  if (how == "le" || how == "ls") return Compare<T, Le<T>>;
  if (how == "gt" || how == "hi") return Compare<T, Gt<T>>;
  if (how == "ge" || how == "hs") return Compare<T, Ge<T>>;
  return nullptr;
}

Handler FloatCompare(std::string_view how) {
  if (how == "eq") return Compare<float, Eq<float>>;
  if (how == "ne") return Compare<float, OrderedNe>;
  if (how == "lt") return Compare<float, Lt<float>>;
  if (how == "le") return Compare<float, Le<float>>;
  if (how == "gt") return Compare<float, Gt<float>>;
  if (how == "ge") return Compare<float, Ge<float>>;
  if (how == "equ") return Compare<float, Equ>;
  if (how == "neu") return Compare<float, Neu>;
  if (how == "ltu") return Compare<float, Ltu>;
  if (how == "leu") return Compare<float, Leu>;
  if (how == "gtu") return Compare<float, Gtu>;
  if (how == "geu") return Compare<float, Geu>;
  if (how == "num") return Compare<float, Num>;
  if (how == "nan") return Compare<float, Unordered>;
  return nullptr;
}

Handler CompareOf(std::string_view how, std::string_view type) {
  if (type == "f32") return FloatCompare(how);
  if (type[0] == 'b' && how != "eq" && how != "ne") return nullptr;
  if (type == "b16" || type == "u16") return IntegerCompare<uint16_t>(how);
  if (type == "b32" || type == "u32") return IntegerCompare<uint32_t>(how);
  if (type == "b64" || type == "u64") return IntegerCompare<uint64_t>(how);
  if (type == "s16") return IntegerCompare<int16_t>(how);
  if (type == "s32") return IntegerCompare<int32_t>(how);
  if (type == "s64") return IntegerCompare<int64_t>(how);
  return nullptr;
}

Combination TakeCombination(Modifiers* modifiers) {
  if (modifiers->Take("and")) return Combination::kAnd;
  if (modifiers->Take("or")) return Combination::kOr;
  return modifiers->Take("xor") ? Combination::kXor : Combination::kNone;
}

void DecodeSetp(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view how = modifiers.Next();
  const Combination combination = TakeCombination(&modifiers);
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  decoder.ExpectOperands(instruction, combination == Combination::kNone ? 3 : 4);
  op->small = static_cast<uint8_t>(combination);
  if (combination != Combination::kNone) {
    op->target = static_cast<int32_t>(decoder.PredicateSource(instruction.operands[3]));
    op->count = instruction.operands[3].negated ? 1 : 0;
  }
  op->run = type.empty() ? nullptr : CompareOf(how, type);
  if (op->run == nullptr) decoder.Fail(instruction, "this comparison is not supported");
  const Operand& d = instruction.operands[0];
  op->d = decoder.PredicateDestination(d);
  if (!d.second.empty()) op->c = decoder.PredicateNamed(d.second, d);
  op->a = decoder.Source(instruction.operands[1], LaneBytes(type));
  op->b = decoder.Source(instruction.operands[2], LaneBytes(type));
}

}  // namespace

void RegisterCompare(InstructionTable* table) { (*table)["setp"] = DecodeSetp; }

}  // namespace jax_fa4::emulator
