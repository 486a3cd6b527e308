// Bits counted, moved and chosen (PTX ISA, "popc", "clz", "brev", "bfe", "bfi", "prmt", "lop3",
// "shf").
#include <algorithm>

#include "emulator/isa/lanes.h"

namespace jax_fa4::emulator {
namespace {

uint32_t Popc32(uint32_t a) { return static_cast<uint32_t>(__builtin_popcount(a)); }
uint32_t Clz32(uint32_t a) { return a == 0 ? 32u : static_cast<uint32_t>(__builtin_clz(a)); }
uint64_t Popc64(uint64_t a) { return static_cast<uint64_t>(__builtin_popcountll(a)); }
uint64_t Clz64(uint64_t a) { return a == 0 ? 64u : static_cast<uint64_t>(__builtin_clzll(a)); }

template <typename T>
T Brev(T a) {
  constexpr int kBits = 8 * sizeof(T);
  T reversed = 0;
  for (int bit = 0; bit < kBits; ++bit) reversed |= (a >> bit & 1u) << (kBits - 1 - bit);
  return reversed;
}

// d (32 bits) = Function(a).
template <typename T, auto Function>
Step Count(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const T* a = warp.Lanes<T>(op.a);
  ForLanes(warp.exec, [&](int lane) { d[lane] = static_cast<uint32_t>(Function(a[lane])); });
  return Step::kNext;
}

void DecodeCount(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const bool wide = modifiers.OneOf({"b32", "b64"}) == "b64";
  modifiers.Done();
  decoder.ExpectOperands(instruction, 2);
  const std::string& name = instruction.opcode[0];
  if (name == "brev") {
    op->run = wide ? Handler(Unary<uint64_t, Brev<uint64_t>>) : Unary<uint32_t, Brev<uint32_t>>;
  } else if (name == "popc") {
    op->run = wide ? Handler(Count<uint64_t, Popc64>) : Count<uint32_t, Popc32>;
  } else {
    op->run = wide ? Handler(Count<uint64_t, Clz64>) : Count<uint32_t, Clz32>;
  }
  op->d = decoder.Destination(instruction.operands[0], wide && name == "brev" ? 8 : 4);
  op->a = decoder.Source(instruction.operands[1], wide ? 8 : 4);
}

// ---- fields

// A position or a length, which the manual restricts to 0..255. Of more it takes the low 8 bits;
// so an H100 does in 32 bits, but in 64 whatever is more than the width is the width.
template <typename U>
uint32_t FieldOperand(uint32_t value) {
  return sizeof(U) == 8 ? std::min(value, 64u) : value & 255;
}

template <typename U>
U FieldMask(uint32_t length) {
  return length >= 8 * sizeof(U) ? ~U{0} : (U{1} << length) - 1;
}

template <typename U>
U ShiftedLeft(U value, uint32_t amount) {
  return amount >= 8 * sizeof(U) ? 0 : value << amount;
}

// A signed field extends its top bit, or the value's where the field reaches past it.
template <typename T>
Step Extract(Warp& warp, const Op& op) {
  using U = std::make_unsigned_t<T>;
  constexpr uint32_t kBits = 8 * sizeof(T);
  U* d = warp.Lanes<U>(op.d);
  const U* a = warp.Lanes<U>(op.a);
  const uint32_t* b = warp.Lanes<uint32_t>(op.b);
  const uint32_t* c = warp.Lanes<uint32_t>(op.c);
  ForLanes(warp.exec, [&](int lane) {
    const uint32_t position = FieldOperand<U>(b[lane]);
    const uint32_t length = FieldOperand<U>(c[lane]);
    const U value = a[lane];
    U field = position >= kBits ? 0 : value >> position & FieldMask<U>(length);
    if (std::is_signed_v<T> && length != 0 &&
        (value >> std::min(position + length - 1, kBits - 1) & 1) != 0) {
      const uint32_t present = position >= kBits ? 0 : std::min(length, kBits - position);
      field |= ~FieldMask<U>(present);
    }
    d[lane] = field;
  });
  return Step::kNext;
}

// d = b with `length` bits of a at `position`; op.immediate = slot of the length.
template <typename U>
Step Insert(Warp& warp, const Op& op) {
  U* d = warp.Lanes<U>(op.d);
  const U* a = warp.Lanes<U>(op.a);
  const U* b = warp.Lanes<U>(op.b);
  const uint32_t* c = warp.Lanes<uint32_t>(op.c);
  const uint32_t* lengths = warp.Lanes<uint32_t>(static_cast<Slot>(op.immediate));
  ForLanes(warp.exec, [&](int lane) {
    const uint32_t position = FieldOperand<U>(c[lane]);
    const U mask = ShiftedLeft(FieldMask<U>(FieldOperand<U>(lengths[lane])), position);
    d[lane] = (b[lane] & ~mask) | (ShiftedLeft(a[lane], position) & mask);
  });
  return Step::kNext;
}

void DecodeBfe(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view type = modifiers.OneOf({"s32", "u32", "s64", "u64"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 4);
  op->run = type == "s32"   ? Handler(Extract<int32_t>)
            : type == "u32" ? Handler(Extract<uint32_t>)
            : type == "s64" ? Handler(Extract<int64_t>)
                            : Handler(Extract<uint64_t>);
  op->d = decoder.Destination(instruction.operands[0], LaneBytes(type));
  op->a = decoder.Source(instruction.operands[1], LaneBytes(type));
  op->b = decoder.Source(instruction.operands[2], 4);
  op->c = decoder.Source(instruction.operands[3], 4);
}

void DecodeBfi(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const std::string_view type = modifiers.OneOf({"b32", "b64"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 5);
  op->run = type == "b32" ? Handler(Insert<uint32_t>) : Handler(Insert<uint64_t>);
  op->d = decoder.Destination(instruction.operands[0], LaneBytes(type));
  op->a = decoder.Source(instruction.operands[1], LaneBytes(type));
  op->b = decoder.Source(instruction.operands[2], LaneBytes(type));
  op->c = decoder.Source(instruction.operands[3], 4);
  op->immediate = decoder.Source(instruction.operands[4], 4);
}

// ---- three 32-bit sources

// Each nibble of c picks a byte of {b, a}; with its top bit, that byte's sign eight times.
uint32_t Prmt(uint32_t a, uint32_t b, uint32_t c) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t select = c >> (4 * i) & 15;
    uint32_t byte = bytes >> (8 * (select & 7)) & 255;
    if ((select & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

template <bool kLeft, bool kClamp>
uint32_t Funnel(uint32_t low, uint32_t high, uint32_t c) {
  const uint32_t amount = kClamp ? std::min(c, 32u) : c & 31u;
  const uint64_t both = uint64_t{high} << 32 | low;
  return static_cast<uint32_t>(kLeft ? both << amount >> 32 : both >> amount);
}

// op.immediate = truth table; bit 4 a + 2 b + c of it is the result.
Step Lop3(Warp& warp, const Op& op) {
  uint32_t* d = warp.Lanes<uint32_t>(op.d);
  const uint32_t* a = warp.Lanes<uint32_t>(op.a);
  const uint32_t* b = warp.Lanes<uint32_t>(op.b);
  const uint32_t* c = warp.Lanes<uint32_t>(op.c);
  ForLanes(warp.exec, [&](int lane) {
    uint32_t result = 0;
    for (int row = 0; row < 8; ++row) {
      if ((op.immediate >> row & 1) == 0) continue;
      result |= ((row & 4) != 0 ? a[lane] : ~a[lane]) & ((row & 2) != 0 ? b[lane] : ~b[lane]) &
                ((row & 1) != 0 ? c[lane] : ~c[lane]);
    }
    d[lane] = result;
  });
  return Step::kNext;
}

void ThreeSources(Decoder& decoder, const Instruction& instruction, Op* op) {
  op->d = decoder.Destination(instruction.operands[0], 4);
  op->a = decoder.Source(instruction.operands[1], 4);
  op->b = decoder.Source(instruction.operands[2], 4);
  op->c = decoder.Source(instruction.operands[3], 4);
}

void DecodePrmt(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"b32"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 4);
  ThreeSources(decoder, instruction, op);
  op->run = Ternary<uint32_t, Prmt>;
}

void DecodeShf(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  const bool left = modifiers.OneOf({"l", "r"}) == "l";
  const bool clamp = modifiers.OneOf({"clamp", "wrap"}) == "clamp";
  modifiers.OneOf({"b32"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 4);
  ThreeSources(decoder, instruction, op);
  op->run = left    ? clamp ? Handler(Ternary<uint32_t, Funnel<true, true>>)
                            : Handler(Ternary<uint32_t, Funnel<true, false>>)
            : clamp ? Handler(Ternary<uint32_t, Funnel<false, true>>)
                    : Handler(Ternary<uint32_t, Funnel<false, false>>);
}

void DecodeLop3(Decoder& decoder, const Instruction& instruction, Op* op) {
  Modifiers modifiers(decoder, instruction);
  modifiers.OneOf({"b32"});
  modifiers.Done();
  decoder.ExpectOperands(instruction, 5);
  ThreeSources(decoder, instruction, op);
  op->immediate = decoder.SmallImmediate(instruction.operands[4]);
  if (op->immediate > 255) decoder.Fail(instruction.operands[4], "a truth table has 8 bits");
  op->run = Lop3;
}

}  // namespace

void RegisterBits(InstructionTable* table) {
  for (const char* name : {"popc", "clz", "brev"}) (*table)[name] = DecodeCount;
  (*table)["bfe"] = DecodeBfe;
  (*table)["bfi"] = DecodeBfi;
  (*table)["prmt"] = DecodePrmt;
  (*table)["shf"] = DecodeShf;
  (*table)["lop3"] = DecodeLop3;
}

}  // namespace jax_fa4::emulator
