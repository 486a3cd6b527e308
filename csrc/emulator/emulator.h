// The emulator's face: run a kernel's PTX on host memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

struct Report {
  bool ok = false;
  std::string error;          // what went wrong, with line and cause; empty if ok
  uint64_t instructions = 0;  // of all warps
};

// A kernel that was parsed and decoded, or the reason why not.
struct Kernel {
  std::unique_ptr<const Program> program;
  std::string error;
};

// The entry of that name; no name means the only entry of `ptx`.
Kernel LoadKernel(std::string_view ptx, std::string_view entry = {});

// Runs the grid. Never throws, never crashes, whatever the kernel does.
Report RunKernel(const Program& program, const Launch& launch, const Options& options);

}  // namespace jax_fa4::emulator
