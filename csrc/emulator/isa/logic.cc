// Logic and shifts (PTX ISA, "Logic and Shift Instructions").
#include "emulator/isa/integer.h"
#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

template <typename T>
T And(T a, T b) {
  return static_cast<T>(a & b);
}
template <typename T>
T Or(T a, T b) {
  return static_cast<T>(a | b);
}
template <typename T>
T Xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <typename T>
T Not(T a) {
  return static_cast<T>(~a);
}

// Shift amounts are 32-bit and clamped to the width.
template <typename T, bool kLeft>
Step Shift(Warp& warp, const Op& op) {
  using Lane = typename LaneOf<T>::type;
  constexpr uint32_t kBits = 8 * sizeof(T);
  Lane* d = warp.Lanes<Lane>(op.d);
  const Lane* a = warp.Lanes<Lane>(op.a);
  const uint32_t* b = warp.Lanes<uint32_t>(op.b);
  ForLanes(warp.exec, [&](int lane) {
    const T value = static_cast<T>(a[lane]);
    const uint32_t amount = b[lane];
    if constexpr (kLeft) {
      d[lane] = amount >= kBits
                    ? 0
                    : ToLane<T>(static_cast<T>(static_cast<Unsigned<T>>(value) << amount));
    } else {
      d[lane] = amount >= kBits ? ToLane<T>(static_cast<T>(value < T{0} ? -1 : 0))
                                : ToLane<T>(static_cast<T>(value >> amount));
    }
  });
  return Step::kNext;
}

template <auto Function>
Step PredicateBinary(Warp& warp, const Op& op) {
  uint32_t& d = warp.Predicate(op.d);
  d = (d & ~warp.exec) | (Function(warp.Predicate(op.a), warp.Predicate(op.b)) & warp.exec);
  return Step::kNext;
}

Step PredicateNot(Warp& warp, const Op& op) {
  uint32_t& d = warp.Predicate(op.d);
  d = (d & ~warp.exec) | (~warp.Predicate(op.a) & warp.exec);
  return Step::kNext;
}

#define JAX_FA4_BY_BITS(family, make)         \
  Handler family(std::string_view type) {     \
    if (type == "b16") return make(uint16_t); \
    if (type == "b32") return make(uint32_t); \
    if (type == "b64") return make(uint64_t); \
    return nullptr;                           \
  }

#define MAKE(T) (Shift<T, false>)
JAX_FA4_BY_TYPE(ShrOf, MAKE)
#undef MAKE
#define MAKE(T) (Shift<T, true>)
JAX_FA4_BY_BITS(ShlOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, And<T>>)
JAX_FA4_BY_BITS(AndOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, Or<T>>)
JAX_FA4_BY_BITS(OrOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, Xor<T>>)
JAX_FA4_BY_BITS(XorOf, MAKE)
#undef MAKE
#define MAKE(T) (Unary<T, Not<T>>)
JAX_FA4_BY_BITS(NotOf, MAKE)
#undef MAKE

void DecodeShift(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  const bool left = instruction.opcode[0] == "shl";
  std::string unsigned_type(type);
  if (!left && !type.empty() && type[0] == 'b') unsigned_type[0] = 'u';
  op->run = left ? ShlOf(type) : ShrOf(unsigned_type);
  if (op->run == nullptr) decoder.Fail(instruction, "this type is not supported");
  decoder.ExpectOperands(instruction, 3);
  const int bytes = LaneBytes(type);
  op->d = decoder.Destination(instruction.operands[0], bytes);
  op->a = decoder.Source(instruction.operands[1], bytes);
  op->b = decoder.Source(instruction.operands[2], 4);
}

uint32_t AndMask(uint32_t a, uint32_t b) { return a & b; }
uint32_t OrMask(uint32_t a, uint32_t b) { return a | b; }
uint32_t XorMask(uint32_t a, uint32_t b) { return a ^ b; }

void DecodeLogic(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  const std::string& name = instruction.opcode[0];
  const size_t sources = name == "not" ? 1 : 2;
  if (type != "pred") {
    Handler handler = name == "and"   ? AndOf(type)
                      : name == "or"  ? OrOf(type)
                      : name == "xor" ? XorOf(type)
                                      : NotOf(type);
    SameType(decoder, instruction, type, sources, handler, op);
    return;
  }
  decoder.ExpectOperands(instruction, sources + 1);
  op->run = name == "and"   ? Handler(PredicateBinary<AndMask>)
            : name == "or"  ? Handler(PredicateBinary<OrMask>)
            : name == "xor" ? Handler(PredicateBinary<XorMask>)
                            : Handler(PredicateNot);
  op->d = decoder.PredicateDestination(instruction.operands[0]);
  op->a = decoder.PredicateSource(instruction.operands[1]);
  if (sources > 1) op->b = decoder.PredicateSource(instruction.operands[2]);
}

}  // namespace

void RegisterLogic(InstructionTable* table) {
  (*table)["shl"] = DecodeShift;
  (*table)["shr"] = DecodeShift;
  for (const char* name : {"and", "or", "xor", "not"}) (*table)[name] = DecodeLogic;
}

}  // namespace jax_fa4::emulator
