// Stands in for a device under a kernel's compiled host code, and keeps the launch that it makes.
#include <cstring>
#include <string>

#include "runtime/captured_launch.h"
#include "runtime/emulated_device.h"

namespace {

using namespace jax_fa4;

using Entry = void (*)(void** arguments);
using LaunchEntry = void (*)(void** arguments, int32_t count);

// Laid out as host_launches.py's ctypes.Structure of the same name.
struct Capture {
  const char* ptx;
  uint64_t ptx_bytes;
  Entry init;
  Entry load_to_device;
  LaunchEntry launch;
  void** arguments;  // addresses of the values, and one place behind them
  uint64_t argument_count;
  uint64_t sm_count;
  uint64_t compute_capability_major;
  uint32_t geometry[10];  // grid, block, cluster, dynamic shared bytes
  uint8_t parameters[4096];
  uint64_t parameter_bytes;
};

class CapturingDevice final : public EmulatedDevice {
 public:
  CapturingDevice(const Capture& capture, const emulator::Program& program)
      : EmulatedDevice(static_cast<int>(capture.sm_count),
                       static_cast<int>(capture.compute_capability_major)),
        program_(program) {}

  CudaResult LibraryLoadData(CudaLibrary* library, const void*) override {
    *library = reinterpret_cast<CudaLibrary>(this);
    return kCudaSuccess;
  }
  CudaResult LibraryGetKernel(CudaKernel* kernel, CudaLibrary, const char*) override {
    *kernel = reinterpret_cast<CudaKernel>(this);
    return kCudaSuccess;
  }
  CudaResult LaunchKernel(const RuntimeLaunchConfig& config, CudaKernel,
                          void** arguments) override {
    launch_ = CaptureLaunch(config, program_, arguments);
    ++launches_;
    return kCudaSuccess;
  }
  std::string Describe(CudaResult result) override {
    return error_.empty() ? "error " + std::to_string(result) : error_;
  }

  const emulator::Launch& launch() const { return launch_; }
  int launches() const { return launches_; }

 private:
  CudaResult Fail(std::string error) override {
    error_ = std::move(error);
    return kCudaErrorNotSupported;
  }

  const emulator::Program& program_;
  emulator::Launch launch_;
  int launches_ = 0;
  std::string error_;
};

// As csrc/launch.cc calls the entry points, without its cache of what is loaded.
CudaResult CallHostCode(const Capture& capture) {
  void* library = nullptr;
  void* slot = &library;
  CudaResult result = kCudaSuccess;
  void* init_arguments[] = {&slot, &result};
  capture.init(init_arguments);
  if (result != kCudaSuccess) return result;
  int32_t device = 0;
  void* load_arguments[] = {&slot, &device, &result};
  capture.load_to_device(load_arguments);
  if (result != kCudaSuccess) return result;
  capture.arguments[capture.argument_count] = &result;
  capture.launch(capture.arguments, static_cast<int32_t>(capture.argument_count + 1));
  return result;
}

std::string CaptureIt(Capture* capture) {
  const emulator::Kernel kernel = emulator::LoadKernel({capture->ptx, capture->ptx_bytes});
  if (kernel.program == nullptr) return kernel.error;
  CapturingDevice device(*capture, *kernel.program);
  const BackendScope scope(&device, nullptr);
  const CudaResult result = CallHostCode(*capture);
  if (result != kCudaSuccess) return device.Describe(result);
  if (device.launches() != 1) return std::to_string(device.launches()) + " launches, not one";
  const emulator::Launch& launch = device.launch();
  if (launch.parameters.size() > sizeof(capture->parameters)) return "too many parameters";
  const uint32_t geometry[] = {launch.grid.x,    launch.grid.y,
                               launch.grid.z,    launch.block.x,
                               launch.block.y,   launch.block.z,
                               launch.cluster.x, launch.cluster.y,
                               launch.cluster.z, launch.dynamic_shared_bytes};
  std::memcpy(capture->geometry, geometry, sizeof(geometry));
  std::memcpy(capture->parameters, launch.parameters.data(), launch.parameters.size());
  capture->parameter_bytes = launch.parameters.size();
  return {};
}

}  // namespace

// Writes why there is no launch, cut to `size` bytes; empty if there is one.
extern "C" void capture_launch(Capture* capture, char* error, uint64_t size) {
  const std::string text = CaptureIt(capture).substr(0, size - 1);
  std::memcpy(error, text.c_str(), text.size() + 1);
}
