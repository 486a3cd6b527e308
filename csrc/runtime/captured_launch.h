// A launch as compiled host code makes it, as the emulator takes it.
#pragma once

#include "emulator/emulator.h"
#include "runtime/cuda_types.h"

namespace jax_fa4 {

// Grid, block, cluster, shared memory and parameters; which memory the kernel may touch is the
// caller's to say.
emulator::Launch CaptureLaunch(const RuntimeLaunchConfig& config, const emulator::Program& program,
                               void** arguments);

}  // namespace jax_fa4
