// What runs compiled kernels: the CUDA driver, or anything else that can load their image and
// launch it. The eight functions that compiled kernels call (kernel_calls.cc) are answered by the
// back end that the calling thread is using.
#pragma once

#include <string>

#include "runtime/cuda_types.h"

namespace jax_fa4 {

class Backend {
 public:
  virtual ~Backend() = default;

  // The calls of compiled kernels. Zero is success; other numbers are explained by Describe.
  virtual CudaResult LibraryLoadData(CudaLibrary* library, const void* image) = 0;
  virtual CudaResult LibraryGetKernel(CudaKernel* kernel, CudaLibrary library,
                                      const char* name) = 0;
  virtual CudaResult LaunchKernel(const RuntimeLaunchConfig& config, CudaKernel kernel,
                                  void** arguments) = 0;
  virtual CudaResult KernelSetAttribute(CudaKernel kernel, int attribute, int value,
                                        CudaDevice device) = 0;
  virtual CudaResult KernelGetAttribute(int* value, int attribute, CudaKernel kernel,
                                        CudaDevice device) = 0;
  virtual CudaResult DeviceGetAttribute(int* value, int attribute, CudaDevice device) = 0;
  virtual CudaResult GetDevice(CudaDevice* device) = 0;

  // The calls of launch.cc. Enter makes the context of `stream` current on this thread and says
  // what Leave has to restore.
  virtual CudaResult Enter(CudaStream stream, bool* entered) = 0;
  virtual void Leave() = 0;
  virtual std::string DeviceName(CudaDevice device) = 0;

  // The failed call, the number's name and the back end's own text.
  virtual std::string Describe(CudaResult result) = 0;
};

// The back end of the calling thread; never null while a BackendScope lives.
Backend* CurrentBackend();

// While it lives, compiled kernels on this thread call `backend`, in the context of `stream`.
class BackendScope {
 public:
  BackendScope(Backend* backend, CudaStream stream);
  ~BackendScope();
  BackendScope(const BackendScope&) = delete;
  BackendScope& operator=(const BackendScope&) = delete;

  CudaResult status() const { return status_; }

 private:
  Backend* const previous_;
  bool entered_ = false;
  CudaResult status_;
};

}  // namespace jax_fa4
