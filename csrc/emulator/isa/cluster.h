#pragma once

#include "emulator/machine/decoder.h"

namespace jax_fa4::emulator {

// "barrier.cluster", past its second word.
void DecodeClusterBarrier(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                          Op* op);

}  // namespace jax_fa4::emulator
