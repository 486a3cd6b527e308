// The few types of the CUDA ABI that compiled kernels and libcuda exchange. Declared here so that
// the build needs no CUDA toolkit; the numbers and layouts are those of CUDA 12 and 13.
#pragma once

#include <cstddef>
#include <cstdint>

namespace jax_fa4 {

// CUresult, and cudaError_t as compiled kernels see it: they only compare with 0 and pass it on.
using CudaResult = int;
using CudaDevice = int;
using CudaContext = struct CUctx_st*;
using CudaStream = struct CUstream_st*;
using CudaLibrary = struct CUlib_st*;
using CudaKernel = struct CUkern_st*;
using CudaFunction = struct CUfunc_st*;

inline constexpr CudaResult kCudaSuccess = 0;
inline constexpr CudaResult kCudaErrorNotInitialized = 3;
inline constexpr CudaResult kCudaErrorInvalidContext = 201;
// From here on an error is sticky: it may come from a kernel that ran earlier.
inline constexpr CudaResult kCudaErrorFirstSticky = 700;
inline constexpr CudaResult kCudaErrorLastSticky = 719;

inline constexpr CudaResult kCudaErrorNotSupported = 801;
inline constexpr CudaResult kCudaErrorUnknown = 999;

inline constexpr int kDeviceAttributeMultiprocessorCount = 16;
inline constexpr int kDeviceAttributeComputeCapabilityMajor = 75;
inline constexpr int kDeviceAttributeComputeCapabilityMinor = 76;
inline constexpr int kDeviceAttributeMaxSharedMemoryPerBlockOptin = 97;

// cudaLaunchConfig_t, which compiled kernels fill.
struct RuntimeLaunchConfig {
  uint32_t grid[3];
  uint32_t block[3];
  size_t dynamic_shared_bytes;
  CudaStream stream;
  void* attributes;  // 72 bytes each; numbers and layout are the driver's
  uint32_t attribute_count;
};
static_assert(offsetof(RuntimeLaunchConfig, dynamic_shared_bytes) == 24);
static_assert(offsetof(RuntimeLaunchConfig, stream) == 32);
static_assert(offsetof(RuntimeLaunchConfig, attributes) == 40);
static_assert(offsetof(RuntimeLaunchConfig, attribute_count) == 48);

// CUlaunchConfig, which cuLaunchKernelEx reads: only the shared-memory field is narrower.
struct DriverLaunchConfig {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t dynamic_shared_bytes;
  CudaStream stream;
  void* attributes;
  uint32_t attribute_count;
};
static_assert(offsetof(DriverLaunchConfig, stream) == 32);
static_assert(offsetof(DriverLaunchConfig, attribute_count) == 48);

}  // namespace jax_fa4
