// From an FFI call on the CPU to a kernel on the emulator.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "checks.h"
#include "emulator/emulator.h"
#include "launch.h"

namespace jax_fa4 {

// How the emulator is to run, as every emulated call says it in its attributes: seed, completion,
// exact, special, sm_count, level (jax_fa4/emulator/settings.py).
struct EmulatorSettings {
  emulator::Options options;
  int32_t sm_count = 0;
};
ffi::Error ReadEmulatorSettings(std::string_view operation, const ffi::Dictionary& attributes,
                                EmulatorSettings* settings);

// As Launch, on the emulator, for the first of `variants` that it has. What a kernel writes is
// filled with NaN first: what it leaves unwritten shows.
ffi::Error LaunchEmulated(const Operation& operation, const std::vector<const Variant*>& variants,
                          const EmulatorSettings& settings, const KernelPlan& plan);

}  // namespace jax_fa4
