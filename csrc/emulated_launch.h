// From an FFI call on the CPU to a kernel on the emulator.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "checks.h"
#include "emulator/emulator.h"
#include "launch.h"

namespace jax_fa4 {

// A typed attribute, or which one is missing.
template <typename T>
ffi::Error ReadAttribute(std::string_view operation, const ffi::Dictionary& attributes,
                         std::string_view name, T* value) {
  auto found = attributes.get<T>(name);
  if (found.has_error()) return InvalidArgument(operation, name, ": ", found.error().message());
  *value = *found;
  return ffi::Error::Success();
}

// How the emulator is to run, as every emulated call says it in its attributes: seed, completion,
// exact, special, sm_count, level (jax_fa4/emulator/settings.py).
struct EmulatorSettings {
  emulator::Options options;
  int32_t sm_count = 0;
};
ffi::Error ReadEmulatorSettings(std::string_view operation, const ffi::Dictionary& attributes,
                                EmulatorSettings* settings);

// The memory of an emulated call.
struct EmulatedMemory {
  std::initializer_list<Named> inputs;
  std::initializer_list<Named> results;
};

// As Launch, on the emulator. Results are filled with NaN first: what the kernel leaves unwritten
// shows.
ffi::Error LaunchEmulated(const Operation& operation, const std::vector<const Variant*>& variants,
                          const EmulatorSettings& settings, const EmulatedMemory& memory,
                          std::vector<void*> arguments, LaunchFields fields);

}  // namespace jax_fa4
