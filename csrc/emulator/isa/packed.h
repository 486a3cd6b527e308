#pragma once

#include "emulator/machine/decoder.h"

namespace jax_fa4::emulator {

// Pairs of float32 and fma of mixed precision; false if the instruction is neither.
bool DecodePackedArithmetic(Decoder& decoder, const Instruction& instruction, Op* op);

}  // namespace jax_fa4::emulator
