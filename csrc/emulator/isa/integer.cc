// Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions").
#include "emulator/isa/integer.h"

#include <algorithm>

#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

template <typename T>
T Add(T a, T b) {
  return static_cast<T>(static_cast<Unsigned<T>>(a) + static_cast<Unsigned<T>>(b));
}
template <typename T>
T Sub(T a, T b) {
  return static_cast<T>(static_cast<Unsigned<T>>(a) - static_cast<Unsigned<T>>(b));
}
template <typename T>
T MulLo(T a, T b) {
  return static_cast<T>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}
template <typename T>
T MulHi(T a, T b) {
  if constexpr (sizeof(T) == 8) {
    using Wide = std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>;
    return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> 64);
  } else {
    using Wide = std::conditional_t<std::is_signed_v<T>, int64_t, uint64_t>;
    return static_cast<T>((static_cast<Wide>(a) * static_cast<Wide>(b)) >> (8 * sizeof(T)));
  }
}
template <typename Wide, typename Narrow>
Wide MulWide(Narrow a, Narrow b) {
  return static_cast<Wide>(a) * static_cast<Wide>(b);
}
template <typename T>
T MadLo(T a, T b, T c) {
  return Add<T>(MulLo<T>(a, b), c);
}
// Division by zero gives an unspecified value; all ones is what hardware gives.
template <typename T>
T Div(T a, T b) {
  if (b == 0) return static_cast<T>(~Unsigned<T>{0});
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return Sub<T>(0, a);
  }
  return static_cast<T>(a / b);
}
// By zero: all ones, as an H100 does; the manual leaves it open.
template <typename T>
T Rem(T a, T b) {
  if (b == 0) return static_cast<T>(-1);
  if constexpr (std::is_signed_v<T>) {
    if (b == -1) return 0;
  }
  return static_cast<T>(a % b);
}
template <typename T>
T Min(T a, T b) {
  return std::min(a, b);
}
template <typename T>
T Max(T a, T b) {
  return std::max(a, b);
}
template <typename T>
T MinRelu(T a, T b) {
  return std::max<T>(std::min(a, b), 0);
}
template <typename T>
T MaxRelu(T a, T b) {
  return std::max<T>(std::max(a, b), 0);
}
template <typename T>
T Neg(T a) {
  return Sub<T>(0, a);
}
template <typename T>
T Abs(T a) {
  return a < 0 ? Neg<T>(a) : a;
}
#define MAKE(T) (Binary<T, Add<T>>)
JAX_FA4_BY_TYPE(AddOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, Sub<T>>)
JAX_FA4_BY_TYPE(SubOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, MulLo<T>>)
JAX_FA4_BY_TYPE(MulLoOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, MulHi<T>>)
JAX_FA4_BY_TYPE(MulHiOf, MAKE)
#undef MAKE
#define MAKE(T) (Ternary<T, MadLo<T>>)
JAX_FA4_BY_TYPE(MadLoOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, Div<T>>)
JAX_FA4_BY_TYPE(DivOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, Rem<T>>)
JAX_FA4_BY_TYPE(RemOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, Min<T>>)
JAX_FA4_BY_TYPE(MinOf, MAKE)
#undef MAKE
#define MAKE(T) (Binary<T, Max<T>>)
JAX_FA4_BY_TYPE(MaxOf, MAKE)
#undef MAKE
Handler NegOf(std::string_view type) {
  if (type == "s16") return Unary<int16_t, Neg<int16_t>>;
  if (type == "s32") return Unary<int32_t, Neg<int32_t>>;
  if (type == "s64") return Unary<int64_t, Neg<int64_t>>;
  return nullptr;
}

Handler AbsOf(std::string_view type) {
  if (type == "s16") return Unary<int16_t, Abs<int16_t>>;
  if (type == "s32") return Unary<int32_t, Abs<int32_t>>;
  if (type == "s64") return Unary<int64_t, Abs<int64_t>>;
  return nullptr;
}

Handler MulWideOf(std::string_view type) {
  if (type == "s16") return Widening<int32_t, int16_t, MulWide<int32_t, int16_t>>;
  if (type == "u16") return Widening<uint32_t, uint16_t, MulWide<uint32_t, uint16_t>>;
  if (type == "s32") return Widening<int64_t, int32_t, MulWide<int64_t, int32_t>>;
  if (type == "u32") return Widening<uint64_t, uint32_t, MulWide<uint64_t, uint32_t>>;
  return nullptr;
}

template <Handler (*kFamily)(std::string_view), size_t kSources>
void Simple(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  SameType(decoder, instruction, type, kSources, kFamily(type), op);
}

// d and c are twice as wide as a and b.
template <typename Wide, typename Narrow>
Step MadWide(Warp& warp, const Op& op) {
  using WideLane = typename LaneOf<Wide>::type;
  WideLane* d = warp.Lanes<WideLane>(op.d);
  const uint32_t* a = warp.Lanes<uint32_t>(op.a);
  const uint32_t* b = warp.Lanes<uint32_t>(op.b);
  const WideLane* c = warp.Lanes<WideLane>(op.c);
  ForLanes(warp.exec, [&](int lane) {
    const Wide product = static_cast<Wide>(static_cast<Narrow>(a[lane])) *
                         static_cast<Wide>(static_cast<Narrow>(b[lane]));
    d[lane] = ToLane<Wide>(Add<Wide>(product, static_cast<Wide>(c[lane])));
  });
  return Step::kNext;
}

void DecodeMad(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  if (modifiers.OneOf({"lo", "wide"}) == "wide") {
    const std::string_view narrow = modifiers.OneOf({"s16", "u16", "s32", "u32"});
    modifiers.Done();
    decoder.ExpectOperands(instruction, 4);
    op->run = narrow == "s16"   ? Handler(MadWide<int32_t, int16_t>)
              : narrow == "u16" ? Handler(MadWide<uint32_t, uint16_t>)
              : narrow == "s32" ? Handler(MadWide<int64_t, int32_t>)
                                : Handler(MadWide<uint64_t, uint32_t>);
    const int bytes = 2 * MemoryBytes(narrow);
    op->d = decoder.Destination(instruction.operands[0], bytes);
    op->a = decoder.Source(instruction.operands[1], 4);
    op->b = decoder.Source(instruction.operands[2], 4);
    op->c = decoder.Source(instruction.operands[3], bytes);
    return;
  }
  const std::string_view type = modifiers.Next();
  modifiers.Done();
  SameType(decoder, instruction, type, 3, MadLoOf(type), op);
}

}  // namespace

void SameType(Decoder& decoder, const Instruction& instruction, std::string_view type,
              size_t sources, Handler handler, Op* op) {
  if (handler == nullptr) {
    decoder.Fail(instruction, "type '." + std::string(type) + "' is not supported here");
  }
  decoder.ExpectOperands(instruction, sources + 1);
  const int bytes = LaneBytes(type);
  op->run = handler;
  op->d = decoder.Destination(instruction.operands[0], bytes);
  op->a = decoder.Source(instruction.operands[1], bytes);
  if (sources > 1) op->b = decoder.Source(instruction.operands[2], bytes);
  if (sources > 2) op->c = decoder.Source(instruction.operands[3], bytes);
}

bool DecodeIntegerArithmetic(Decoder& decoder, const Instruction& instruction, Op* op) {
  const std::string& name = instruction.opcode[0];
  Modifiers modifiers(decoder, instruction);
  if (name == "mul" &&
      (modifiers.Peek() == "lo" || modifiers.Peek() == "hi" || modifiers.Peek() == "wide")) {
    const std::string_view part = modifiers.Next();
    const std::string_view type = modifiers.Next();
    modifiers.Done();
    if (part != "wide") {
      SameType(decoder, instruction, type, 2, part == "lo" ? MulLoOf(type) : MulHiOf(type), op);
      return true;
    }
    op->run = MulWideOf(type);
    if (op->run == nullptr) decoder.Fail(instruction, "this type is not supported");
    decoder.ExpectOperands(instruction, 3);
    op->d = decoder.Destination(instruction.operands[0], 2 * MemoryBytes(type));
    op->a = decoder.Source(instruction.operands[1], LaneBytes(type));
    op->b = decoder.Source(instruction.operands[2], LaneBytes(type));
    return true;
  }
  const bool relu = modifiers.Take("relu");
  const std::string_view type = modifiers.Peek();
  if (type.empty() || (type[0] != 's' && type[0] != 'u')) return false;
  modifiers.Next();
  modifiers.Done();
  Handler handler = nullptr;
  if (relu) {
    if (type == "s32" && name == "min") handler = Binary<int32_t, MinRelu<int32_t>>;
    if (type == "s32" && name == "max") handler = Binary<int32_t, MaxRelu<int32_t>>;
  } else if (name == "add") {
    handler = AddOf(type);
  } else if (name == "sub") {
    handler = SubOf(type);
  } else if (name == "div") {
    handler = DivOf(type);
  } else if (name == "min") {
    handler = MinOf(type);
  } else if (name == "max") {
    handler = MaxOf(type);
  } else if (name == "neg" || name == "abs") {
    SameType(decoder, instruction, type, 1, name == "neg" ? NegOf(type) : AbsOf(type), op);
    return true;
  }
  SameType(decoder, instruction, type, 2, handler, op);
  return true;
}

void RegisterInteger(InstructionTable* table) {
  (*table)["rem"] = Simple<RemOf, 2>;
  (*table)["mad"] = DecodeMad;
}

}  // namespace jax_fa4::emulator
