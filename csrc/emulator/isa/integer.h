// The instructions that integers and floats share by name: add, sub, mul, div, min, max, neg, abs.
#pragma once

#include "emulator/machine/decoder.h"

namespace jax_fa4::emulator {

// Decodes the integer form; false, without effect, if the instruction is of a float type.
bool DecodeIntegerArithmetic(Decoder& decoder, const Instruction& instruction, Op* op);

}  // namespace jax_fa4::emulator
