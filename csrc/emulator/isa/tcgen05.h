// What the files of the tcgen05 instructions share.
#pragma once

#include <string>

#include "emulator/isa/origin.h"
#include "emulator/machine/decoder.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// A 4- or 8-byte value that is the same in all lanes; reports one that is not.
uint64_t UniformValue(Warp& warp, Slot slot, int bytes, const char* what);

// All tcgen05 instructions of a kernel name one .cta_group (PTX ISA 9.7.16.7.1).
void CheckCtaGroup(Warp& warp, int group);

// The other CTA of the pair, for .cta_group::2; reports a cluster that has no pairs, and a CTA that
// has exited (9.7.16.5).
Cta& PeerCta(const Warp& warp);

// The queue in which the asynchronous tcgen05 instructions of a thread take effect.
uint64_t TensorQueue(const Warp& warp, int lane);

// ".cta_group::1" or ".cta_group::2" -> 1 or 2.
int TakeCtaGroup(Modifiers* modifiers);

void DecodeTensorAllocation(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                            std::string_view what, Op* op);
void DecodeTensorAccess(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                        bool loads, Op* op);
void DecodeTensorMma(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op);
void DecodeTensorCommit(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                        Op* op);

}  // namespace jax_fa4::emulator
