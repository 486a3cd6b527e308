// The emulator as a back end: a compiled kernel's host code runs as ever, and what it launches is
// the kernel's PTX, interpreted on the CPU, on host memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "emulator/emulator.h"
#include "runtime/emulated_device.h"
#include "variants.h"

namespace jax_fa4 {

using EmulatedProgram = std::shared_ptr<const emulator::Program>;

// Parses the PTX of a variant and keeps it for this process, in place of what it kept before.
// Returns what is wrong with the text; empty if nothing.
std::string LoadEmulated(const std::string& variant, const std::string& ptx);

// Null if nothing was loaded for the variant.
EmulatedProgram FindEmulated(std::string_view variant);

// Keeps an H100's rounding of special functions for this process; false if the tables are
// incomplete.
bool LoadSpecialTables(emulator::SpecialTables tables);

// Null if none were loaded.
const emulator::SpecialTables* LoadedSpecialTables();

// One emulated launch: the kernel, the memory it may use, and the emulator's options.
//
// Compiled objects keep their CUDA handles in variables of the process. Those belong to the driver:
// this back end neither loads libraries nor reads the handle that it is given, so that both can
// serve one process.
class Emulator final : public EmulatedDevice {
 public:
  Emulator(const Variant& variant, EmulatedProgram program, int sm_count,
           std::vector<emulator::GlobalRange> memory, const emulator::Options& options)
      : EmulatedDevice(sm_count, variant.compute_capability_major),
        variant_(variant),
        program_(std::move(program)),
        memory_(std::move(memory)),
        options_(options) {}

  CudaResult LaunchKernel(const RuntimeLaunchConfig& config, CudaKernel kernel,
                          void** arguments) override;

  CudaResult LibraryLoadData(CudaLibrary* library, const void* image) override;
  CudaResult LibraryGetKernel(CudaKernel* kernel, CudaLibrary library, const char* name) override;

  // What the emulator found, or why it did not start.
  std::string Describe(CudaResult result) override;

 private:
  CudaResult Fail(std::string error) override;

  const Variant& variant_;
  const EmulatedProgram program_;
  const std::vector<emulator::GlobalRange> memory_;
  const emulator::Options options_;
  std::string error_;
};

}  // namespace jax_fa4
