// What instructions on integers have in common.
#pragma once

#include <string_view>
#include <type_traits>

#include "emulator/machine/decoder.h"

namespace jax_fa4::emulator {

// add, sub, mul, div, min, max, neg and abs, which floats have too: decodes the integer form;
// false, without effect, if the instruction is of a float type.
bool DecodeIntegerArithmetic(Decoder& decoder, const Instruction& instruction, Op* op);

// Arithmetic wraps: it is done on unsigned values, whose overflow C++ defines.
template <typename T>
using Unsigned = std::make_unsigned_t<T>;

// d, a, b[, c] of one type.
void SameType(Decoder& decoder, const Instruction& instruction, std::string_view type,
              size_t sources, Handler handler, Op* op);

// The handler for a type word, out of those of a family.
#define JAX_FA4_BY_TYPE(family, make)         \
  Handler family(std::string_view type) {     \
    if (type == "s16") return make(int16_t);  \
    if (type == "u16") return make(uint16_t); \
    if (type == "s32") return make(int32_t);  \
    if (type == "u32") return make(uint32_t); \
    if (type == "s64") return make(int64_t);  \
    if (type == "u64") return make(uint64_t); \
    return nullptr;                           \
  }

}  // namespace jax_fa4::emulator
