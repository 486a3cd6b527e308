// What the files of the asynchronous copies share.
#pragma once

#include "emulator/machine/decoder.h"
#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// "cp.async.bulk.tensor", past these words.
void DecodeTensorCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                      Op* op);
// "cp.async", past these words, where "bulk" does not follow.
void DecodeAsyncCopy(Decoder& decoder, const Instruction& instruction, Modifiers* modifiers,
                     Op* op);

// A register's value as an address; `bytes` is 4 or 8.
inline uint64_t AddressValue(Warp& warp, Slot slot, int bytes, int lane) {
  return bytes == 8 ? warp.Lanes<uint64_t>(slot)[lane] : warp.Lanes<uint32_t>(slot)[lane];
}

// Adds an operation to the thread's open group; the number that the group has or will have.
uint64_t JoinGroup(BulkGroups* groups);
// An operation of group `group` has read its source and written its destination.
void LeaveGroup(BulkGroups* groups, uint64_t group);
void CommitGroup(BulkGroups* groups);
// Whether all but the latest `allowed` groups are done, or have read their source if `reads_only`.
bool GroupsDone(const BulkGroups& groups, int64_t allowed, bool reads_only);
void ForgetDoneGroups(BulkGroups* groups);

}  // namespace jax_fa4::emulator
