// Asynchronous copies without a tensor map; cp's other forms are in bulk.cc.
#pragma once

#include <string_view>

#include "emulator/machine/decoder.h"

namespace jax_fa4::emulator {

// cp.async, from the modifier after "async" on.
void DecodeAsyncCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op);
// cp.async.bulk and cp.reduce.async.bulk, from the modifier after the destination's space on.
void DecodeBulkCopy(Decoder& decoder, const Instruction& instruction, std::string_view destination,
                    Modifiers* modifiers, Op* op);

}  // namespace jax_fa4::emulator
