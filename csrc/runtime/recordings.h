// Recordings of the emulator's launches, kept for Python to fetch: off, until somebody asks.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "emulator/emulator.h"

namespace jax_fa4 {

// One launch that was recorded.
struct Recording {
  std::string name;
  std::shared_ptr<const emulator::Program> program;
  emulator::Dim3 grid, block, cluster;
  emulator::Trace trace;
  emulator::Report report;
};

// From now on every launch is recorded, with up to `max_events` events each.
void StartRecording(uint64_t max_events);

// Ends it. What has been recorded since it was started, in the order in which launches ended.
std::vector<std::shared_ptr<const Recording>> TakeRecordings();

// emulator::RunKernel, recorded if that is asked for.
emulator::Report RunRecorded(const std::string& name,
                             const std::shared_ptr<const emulator::Program>& program,
                             const emulator::Launch& launch, emulator::Options options);

}  // namespace jax_fa4
