// Groups of a thread's copies: an operation belongs to the open group, later to a committed one.
#pragma once

#include <cstdint>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// Adds an operation to the open group; returns the number that the group will have.
inline uint64_t JoinGroup(BulkGroups* groups) {
  ++groups->open;
  return groups->first_group + groups->committed.size();
}

// An operation of group `group` has finished with its source and with its destination.
inline void LeaveGroup(BulkGroups* groups, uint64_t group) {
  if (group - groups->first_group >= groups->committed.size()) {
    --groups->open;  // it finished before its group was committed
    return;
  }
  auto& counts = groups->committed[group - groups->first_group];
  --counts[0];
  --counts[1];
}

inline void CommitOpenGroup(BulkGroups* groups) {
  groups->committed.push_back({groups->open, groups->open});
  groups->open = 0;
}

// Forgets finished groups; whether at most `pending` are left.
inline bool AtMostPending(BulkGroups* groups, int64_t pending) {
  while (!groups->committed.empty() && groups->committed.front()[1] == 0) {
    groups->committed.pop_front();
    ++groups->first_group;
  }
  return static_cast<int64_t>(groups->committed.size()) <= pending;
}

}  // namespace jax_fa4::emulator
