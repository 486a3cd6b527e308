// Kernels that CuTe DSL compiled in this process, on the emulator: what one call of a compiled
// function launches runs here, on host memory.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "emulator/emulator.h"
#include "runtime/emulated_device.h"

namespace jax_fa4::cute_dsl {

// Keeps the text of a GPU binary for this process: host code holds the binary, the emulator runs
// the text that it was assembled from.
void Register(std::string_view cubin, std::string_view ptx);

struct Settings {
  emulator::Options options;
  std::vector<emulator::GlobalRange> memory;  // all that the kernels may touch
  int sm_count = 0;
  int compute_capability_major = 0;
};

// The back end for the time of one call. The first finding ends the call's work: what the host code
// would still launch does not run.
class Session final : public EmulatedDevice {
 public:
  explicit Session(Settings settings)
      : EmulatedDevice(settings.sm_count, settings.compute_capability_major),
        settings_(std::move(settings)) {}

  CudaResult LibraryLoadData(CudaLibrary* library, const void* image) override;
  CudaResult LibraryGetKernel(CudaKernel* kernel, CudaLibrary library, const char* name) override;
  CudaResult LaunchKernel(const RuntimeLaunchConfig& config, CudaKernel kernel,
                          void** arguments) override;
  std::string Describe(CudaResult result) override;

  // What was found, or why a kernel could not run; empty if nothing.
  const std::string& error() const { return error_; }
  uint64_t instructions() const { return instructions_; }
  uint64_t launches() const { return launches_; }

 private:
  CudaResult Fail(std::string error) override;

  const Settings settings_;
  std::string error_;
  uint64_t instructions_ = 0;
  uint64_t launches_ = 0;
};

}  // namespace jax_fa4::cute_dsl
