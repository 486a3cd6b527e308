// Asynchronous copies, of which bulk.cc has the rest.
#pragma once

#include <string_view>

#include "emulator/machine/decoder.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// The addresses of an instruction stand in Program::slots, each as a register's slot and that of
// a constant, its offset; bit i of op.small says that register i has 64 bits.
void AddCopyAddress(Decoder& decoder, const Operand& operand, int bytes, Op* op);
uint64_t CopyAddress(Warp& warp, const Op& op, int which, int lane);

// `size` bytes of shared memory that hold nothing until an operation completes, and that it has
// completed.
uint8_t* ReserveShared(Warp& warp, int lane, uint64_t address, uint32_t size);
void MarkSharedWritten(Cta* cta, uint64_t address, uint32_t size);

// cp.async, from the modifier after "async" on.
void DecodeAsyncCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op);
// cp.async.bulk and cp.reduce.async.bulk, from the modifier after the destination's space on.
void DecodeBulkCopy(Decoder& decoder, const Instruction& instruction, std::string_view destination,
                    Modifiers* modifiers, Op* op);
// cp.async.bulk.tensor and cp.async.bulk.prefetch.tensor, from the modifier after "tensor" on.
void DecodeTensorCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                      Op* op);
void DecodeTensorPrefetch(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                          Op* op);

}  // namespace jax_fa4::emulator
