// What host code asks of a device that the emulator stands in for. How kernels are found and
// launched is each back end's own.
#pragma once

#include <string>

#include "runtime/backend.h"

namespace jax_fa4 {

class EmulatedDevice : public Backend {
 public:
  CudaResult KernelSetAttribute(CudaKernel kernel, int attribute, int value,
                                CudaDevice device) override;
  CudaResult KernelGetAttribute(int* value, int attribute, CudaKernel kernel,
                                CudaDevice device) override;
  CudaResult DeviceGetAttribute(int* value, int attribute, CudaDevice device) override;
  CudaResult GetDevice(CudaDevice* device) override;

  CudaResult Enter(CudaStream stream, bool* entered) override;
  void Leave() override {}
  std::string DeviceName(CudaDevice device) override;

 protected:
  EmulatedDevice(int sm_count, int compute_capability_major)
      : sm_count_(sm_count), compute_capability_major_(compute_capability_major) {}

  // Keeps why host code cannot go on.
  virtual CudaResult Fail(std::string error) = 0;

 private:
  const int sm_count_;
  const int compute_capability_major_;
};

}  // namespace jax_fa4
