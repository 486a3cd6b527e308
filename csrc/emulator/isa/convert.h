// Parts of cvt that have files of their own.
#pragma once

#include "emulator/machine/decoder.h"

namespace jax_fa4::emulator {

// Decodes a cvt to or from a format narrower than float32; false if it is another one.
bool DecodeNarrowConversion(Decoder& decoder, const Instruction& instruction, Op* op);

}  // namespace jax_fa4::emulator
