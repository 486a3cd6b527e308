#include "runtime/driver.h"

#include <dlfcn.h>

namespace jax_fa4 {
namespace {

// The driver's functions, by the names that libcuda exports: a name fixes its signature for good
// (a changed one gets a new suffix), so these are the ABI of every driver since CUDA 12.0.
struct DriverTable {
  CudaResult (*cuInit)(unsigned flags);
  CudaResult (*cuGetErrorName)(CudaResult result, const char** name);
  CudaResult (*cuGetErrorString)(CudaResult result, const char** text);
  CudaResult (*cuDeviceGetAttribute)(int* value, int attribute, CudaDevice device);
  CudaResult (*cuDeviceGetName)(char* name, int length, CudaDevice device);
  CudaResult (*cuCtxGetCurrent)(CudaContext* context);
  CudaResult (*cuCtxGetDevice)(CudaDevice* device);
  CudaResult (*cuCtxPushCurrent_v2)(CudaContext context);
  CudaResult (*cuCtxPopCurrent_v2)(CudaContext* context);
  CudaResult (*cuStreamGetCtx)(CudaStream stream, CudaContext* context);
  CudaResult (*cuLibraryLoadData)(CudaLibrary* library, const void* image, void* jit_options,
                                  void** jit_values, unsigned jit_count, void* library_options,
                                  void** library_values, unsigned library_count);
  CudaResult (*cuLibraryGetKernel)(CudaKernel* kernel, CudaLibrary library, const char* name);
  CudaResult (*cuKernelGetFunction)(CudaFunction* function, CudaKernel kernel);
  CudaResult (*cuKernelGetAttribute)(int* value, int attribute, CudaKernel kernel,
                                     CudaDevice device);
  CudaResult (*cuKernelSetAttribute)(int attribute, int value, CudaKernel kernel,
                                     CudaDevice device);
  CudaResult (*cuLaunchKernelEx)(const DriverLaunchConfig* config, CudaFunction function,
                                 void** arguments, void** extra);
  // Since CUDA 12.4; null in older drivers.
  CudaResult (*cuFuncLoad)(CudaFunction function);
};

template <typename Function>
bool Find(void* libcuda, const char* name, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(libcuda, name));
  return *function != nullptr;
}

// The name of the first function that the driver lacks; null if it has them all.
const char* FindMissing(void* libcuda, DriverTable* table) {
#define JAX_FA4_FIND(name) \
  if (!Find(libcuda, #name, &table->name)) return #name
  JAX_FA4_FIND(cuInit);
  JAX_FA4_FIND(cuGetErrorName);
  JAX_FA4_FIND(cuGetErrorString);
  JAX_FA4_FIND(cuDeviceGetAttribute);
  JAX_FA4_FIND(cuDeviceGetName);
  JAX_FA4_FIND(cuCtxGetCurrent);
  JAX_FA4_FIND(cuCtxGetDevice);
  JAX_FA4_FIND(cuCtxPushCurrent_v2);
  JAX_FA4_FIND(cuCtxPopCurrent_v2);
  JAX_FA4_FIND(cuStreamGetCtx);
  JAX_FA4_FIND(cuLibraryLoadData);
  JAX_FA4_FIND(cuLibraryGetKernel);
  JAX_FA4_FIND(cuKernelGetFunction);
  JAX_FA4_FIND(cuKernelGetAttribute);
  JAX_FA4_FIND(cuKernelSetAttribute);
  JAX_FA4_FIND(cuLaunchKernelEx);
#undef JAX_FA4_FIND
  Find(libcuda, "cuFuncLoad", &table->cuFuncLoad);
  return nullptr;
}

// The driver call that last failed on this thread; what Describe names.
thread_local const char* failed_call = "the driver";

class Driver final : public Backend {
 public:
  explicit Driver(const DriverTable& table) : table_(table) {}

  CudaResult LibraryLoadData(CudaLibrary* library, const void* image) override {
    return Note("cuLibraryLoadData",
                table_.cuLibraryLoadData(library, image, nullptr, nullptr, 0, nullptr, nullptr, 0));
  }

  // Also brings the kernel's code onto the current device, which the driver would otherwise put
  // off to the first launch, perhaps into the middle of a graph capture.
  CudaResult LibraryGetKernel(CudaKernel* kernel, CudaLibrary library, const char* name) override {
    CudaResult result = table_.cuLibraryGetKernel(kernel, library, name);
    if (result != kCudaSuccess) return Note("cuLibraryGetKernel", result);
    CudaFunction function = nullptr;
    result = table_.cuKernelGetFunction(&function, *kernel);
    if (result != kCudaSuccess) return Note("cuKernelGetFunction", result);
    if (table_.cuFuncLoad == nullptr) return kCudaSuccess;
    return Note("cuFuncLoad", table_.cuFuncLoad(function));
  }

  // A CUkernel may be launched where a CUfunction is asked for; the context is the current one.
  CudaResult LaunchKernel(const RuntimeLaunchConfig& config, CudaKernel kernel,
                          void** arguments) override {
    DriverLaunchConfig driver_config = {
        {config.grid[0], config.grid[1], config.grid[2]},
        {config.block[0], config.block[1], config.block[2]},
        static_cast<uint32_t>(config.dynamic_shared_bytes),
        config.stream,
        config.attributes,
        config.attribute_count,
    };
    return Note("cuLaunchKernelEx",
                table_.cuLaunchKernelEx(&driver_config, reinterpret_cast<CudaFunction>(kernel),
                                        arguments, nullptr));
  }

  CudaResult KernelSetAttribute(CudaKernel kernel, int attribute, int value,
                                CudaDevice device) override {
    return Note("cuKernelSetAttribute",
                table_.cuKernelSetAttribute(attribute, value, kernel, device));
  }

  CudaResult KernelGetAttribute(int* value, int attribute, CudaKernel kernel,
                                CudaDevice device) override {
    return Note("cuKernelGetAttribute",
                table_.cuKernelGetAttribute(value, attribute, kernel, device));
  }

  CudaResult DeviceGetAttribute(int* value, int attribute, CudaDevice device) override {
    return Note("cuDeviceGetAttribute", table_.cuDeviceGetAttribute(value, attribute, device));
  }

  CudaResult GetDevice(CudaDevice* device) override {
    return Note("cuCtxGetDevice", table_.cuCtxGetDevice(device));
  }

  CudaResult Enter(CudaStream stream, bool* entered) override {
    *entered = false;
    CudaContext wanted = nullptr;
    CudaResult result = table_.cuStreamGetCtx(stream, &wanted);
    if (result != kCudaSuccess) return Note("cuStreamGetCtx", result);
    CudaContext current = nullptr;
    result = table_.cuCtxGetCurrent(&current);
    if (result != kCudaSuccess) return Note("cuCtxGetCurrent", result);
    if (current == wanted) return kCudaSuccess;
    result = table_.cuCtxPushCurrent_v2(wanted);
    *entered = result == kCudaSuccess;
    return Note("cuCtxPushCurrent", result);
  }

  void Leave() override {
    CudaContext context = nullptr;
    Note("cuCtxPopCurrent", table_.cuCtxPopCurrent_v2(&context));
  }

  std::string DeviceName(CudaDevice device) override {
    char name[128] = "";
    CudaResult result = table_.cuDeviceGetName(name, sizeof(name), device);
    return result == kCudaSuccess ? name : "unknown GPU";
  }

  std::string Describe(CudaResult result) override {
    const char* name = nullptr;
    const char* text = nullptr;
    if (table_.cuGetErrorName(result, &name) != kCudaSuccess || name == nullptr) {
      name = "unknown CUDA error";
    }
    if (table_.cuGetErrorString(result, &text) != kCudaSuccess || text == nullptr) text = "no text";
    return std::string(failed_call) + " failed: " + name + " (" + std::to_string(result) +
           "): " + text;
  }

 private:
  static CudaResult Note(const char* call, CudaResult result) {
    if (result != kCudaSuccess) failed_call = call;
    return result;
  }

  const DriverTable table_;
};

struct OpenedDriver {
  Backend* backend = nullptr;
  std::string error;
};

OpenedDriver OpenDriver() {
  void* libcuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (libcuda == nullptr) {
    const char* reason = dlerror();
    return {nullptr, std::string("no CUDA driver: ") + (reason == nullptr ? "" : reason)};
  }
  DriverTable table{};
  if (const char* missing = FindMissing(libcuda, &table)) {
    return {nullptr, std::string("the CUDA driver is older than 12.0: it has no ") + missing};
  }
  Driver* driver = new Driver(table);  // lives as long as the process, like libcuda
  CudaResult result = table.cuInit(0);
  if (result != kCudaSuccess) {
    failed_call = "cuInit";
    return {nullptr, "the CUDA driver does not start: " + driver->Describe(result)};
  }
  return {driver, ""};
}

}  // namespace

Backend* GetDriver(std::string* error) {
  static const OpenedDriver opened = OpenDriver();
  if (opened.backend == nullptr) *error = opened.error;
  return opened.backend;
}

}  // namespace jax_fa4
