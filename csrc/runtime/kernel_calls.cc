// The eight functions that compiled kernels call, with the names and signatures that their host
// code expects. Hidden in the extension, so that no other library's definitions meet ours.
#include "runtime/backend.h"

namespace jax_fa4 {
namespace {
// Without a back end the caller reached a kernel's entry point past launch.cc.
template <typename Call>
CudaResult WithBackend(Call call) {
  Backend* backend = CurrentBackend();
  return backend == nullptr ? kCudaErrorNotInitialized : call(*backend);
}
}  // namespace
}  // namespace jax_fa4

using jax_fa4::Backend;
using jax_fa4::CudaKernel;
using jax_fa4::CudaLibrary;
using jax_fa4::CudaResult;
using jax_fa4::RuntimeLaunchConfig;
using jax_fa4::WithBackend;

extern "C" {

// Compiled kernels pass no options: six of the eight arguments are null or zero.
CudaResult _cudaLibraryLoadData(CudaLibrary* library, const void* image, void* /*jit_options*/,
                                void** /*jit_values*/, unsigned /*jit_count*/,
                                void* /*library_options*/, void** /*library_values*/,
                                unsigned /*library_count*/) {
  return WithBackend([&](Backend& backend) { return backend.LibraryLoadData(library, image); });
}

CudaResult _cudaLibraryGetKernel(CudaKernel* kernel, CudaLibrary library, const char* name) {
  return WithBackend(
      [&](Backend& backend) { return backend.LibraryGetKernel(kernel, library, name); });
}

CudaResult _cudaLaunchKernelEx(const RuntimeLaunchConfig* config, CudaKernel kernel,
                               void** arguments) {
  return WithBackend(
      [&](Backend& backend) { return backend.LaunchKernel(*config, kernel, arguments); });
}

CudaResult _cudaKernelSetAttributeForDevice(CudaKernel kernel, int attribute, int value,
                                            int device) {
  return WithBackend([&](Backend& backend) {
    return backend.KernelSetAttribute(kernel, attribute, value, device);
  });
}

CudaResult _cudaFuncSetAttribute(CudaKernel kernel, int attribute, int value) {
  return WithBackend([&](Backend& backend) {
    int device = 0;
    CudaResult result = backend.GetDevice(&device);
    if (result != jax_fa4::kCudaSuccess) return result;
    return backend.KernelSetAttribute(kernel, attribute, value, device);
  });
}

CudaResult _cudaDeviceGetAttribute(int* value, int attribute, int device) {
  return WithBackend(
      [&](Backend& backend) { return backend.DeviceGetAttribute(value, attribute, device); });
}

CudaResult _cudaGetDevice(int* device) {
  return WithBackend([&](Backend& backend) { return backend.GetDevice(device); });
}

CudaResult _cuKernelGetAttribute(int* value, int attribute, CudaKernel kernel, int device) {
  return WithBackend([&](Backend& backend) {
    return backend.KernelGetAttribute(value, attribute, kernel, device);
  });
}

}  // extern "C"
