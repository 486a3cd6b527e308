#include "runtime/emulated_device.h"

namespace jax_fa4 {

CudaResult EmulatedDevice::KernelSetAttribute(CudaKernel, int, int, CudaDevice) {
  return kCudaSuccess;
}

CudaResult EmulatedDevice::KernelGetAttribute(int* value, int, CudaKernel, CudaDevice) {
  *value = 0;  // no static shared memory, registers, and so on that the host code has to count
  return kCudaSuccess;
}

CudaResult EmulatedDevice::DeviceGetAttribute(int* value, int attribute, CudaDevice) {
  switch (attribute) {
    case kDeviceAttributeMultiprocessorCount:
      *value = sm_count_;
      return kCudaSuccess;
    case kDeviceAttributeMaxSharedMemoryPerBlockOptin:
      *value = 232448;  // 227 KiB, of Hopper and of Blackwell
      return kCudaSuccess;
    case kDeviceAttributeComputeCapabilityMajor:
      *value = compute_capability_major_;
      return kCudaSuccess;
    case kDeviceAttributeComputeCapabilityMinor:
      *value = 0;
      return kCudaSuccess;
    default:
      return Fail("device attribute " + std::to_string(attribute) +
                  " is not known to the emulator");
  }
}

CudaResult EmulatedDevice::GetDevice(CudaDevice* device) {
  *device = 0;
  return kCudaSuccess;
}

CudaResult EmulatedDevice::Enter(CudaStream, bool* entered) {
  *entered = false;
  return kCudaSuccess;
}

std::string EmulatedDevice::DeviceName(CudaDevice) { return "the emulator"; }

}  // namespace jax_fa4
