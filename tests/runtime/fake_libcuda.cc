// A libcuda.so.1 for machines without a GPU: knows just enough of devices, contexts and libraries
// to run host code of compiled kernels, and writes down what it was asked for.
//   FAKE_CUDA_DEVICES  compute capabilities of the devices, "90 90 100"
//   FAKE_CUDA_FAIL     a function and the error that it returns, "cuLaunchKernelEx 700"
// A stream is 0x1000 + its device; a context is 0x100 + its device.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kInvalidContext = 201;
constexpr int kInvalidImage = 200;

std::mutex mutex;
std::string journal;
thread_local std::vector<uintptr_t> contexts;

template <typename... Parts>
void Write(const Parts&... parts) {
  std::ostringstream line;
  ((line << parts << ' '), ...);
  std::lock_guard<std::mutex> lock(mutex);
  journal += line.str() + "\n";
}

std::vector<int> Devices() {
  const char* text = std::getenv("FAKE_CUDA_DEVICES");
  std::istringstream words(text == nullptr ? "90" : text);
  std::vector<int> devices;
  for (int device; words >> device;) devices.push_back(device);
  return devices;
}

int Failure(const char* function) {
  const char* text = std::getenv("FAKE_CUDA_FAIL");
  std::istringstream words(text == nullptr ? "" : text);
  std::string name;
  int error = 0;
  words >> name >> error;
  return name == function ? error : 0;
}

uintptr_t Current() { return contexts.empty() ? 0 : contexts.back(); }

}  // namespace

extern "C" {

struct Config {
  uint32_t grid[3], block[3], shared;
  uintptr_t stream;
  void* attributes;
  uint32_t attribute_count;
};

int cuInit(unsigned) { return Failure("cuInit"); }
int cuGetErrorName(int, const char** name) { return *name = "CUDA_ERROR_FAKE", 0; }
int cuGetErrorString(int, const char** text) { return *text = "a fake error", 0; }

int cuDeviceGetAttribute(int* value, int attribute, int device) {
  const int capability = Devices().at(device);
  switch (attribute) {
    case 16:
      return *value = 132, 0;
    case 75:
      return *value = capability / 10, 0;
    case 76:
      return *value = capability % 10, 0;
    case 97:
      return *value = 232448, 0;
    default:
      return 1;
  }
}

int cuDeviceGetName(char* name, int length, int) { return strncpy(name, "Fake GPU", length), 0; }
int cuCtxGetCurrent(uintptr_t* context) { return *context = Current(), 0; }

int cuCtxGetDevice(int* device) {
  if (Current() == 0) return kInvalidContext;
  return *device = static_cast<int>(Current() - 0x100), 0;
}

int cuCtxPushCurrent_v2(uintptr_t context) { return contexts.push_back(context), 0; }

int cuCtxPopCurrent_v2(uintptr_t* context) {
  *context = Current();
  if (contexts.empty()) return kInvalidContext;
  return contexts.pop_back(), 0;
}

int cuStreamGetCtx(uintptr_t stream, uintptr_t* context) {
  return *context = stream - 0x1000 + 0x100, 0;
}

int cuLibraryLoadData(uintptr_t* library, const uint32_t* image, void*, void*, unsigned, void*,
                      void*, unsigned) {
  if (*image != 0xBA55ED50) return kInvalidImage;
  Write("load");
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // so that racing threads meet here
  return *library = 0x10, Failure("cuLibraryLoadData");
}

int cuLibraryGetKernel(uintptr_t* kernel, uintptr_t library, const char*) {
  return *kernel = library + 1, Failure("cuLibraryGetKernel");
}

int cuKernelGetFunction(uintptr_t* function, uintptr_t kernel) {
  if (Current() == 0) return kInvalidContext;
  return *function = kernel, 0;
}

int cuFuncLoad(uintptr_t) {
  Write("prepare", "device", Current() - 0x100);
  return 0;
}

int cuKernelGetAttribute(int* value, int, uintptr_t, int) { return *value = 1024, 0; }

int cuKernelSetAttribute(int attribute, int value, uintptr_t, int device) {
  Write("set", attribute, "to", value, "device", device);
  return 0;
}

int cuLaunchKernelEx(const Config* config, uintptr_t kernel, void**, void**) {
  Write("launch", kernel, "device", Current() - 0x100, "stream", config->stream - 0x1000, "block",
        config->block[0], "shared", config->shared);
  return Failure("cuLaunchKernelEx");
}

// For the test: the lines written so far, and the depth of this thread's stack of contexts.
const char* fake_cuda_journal() { return journal.c_str(); }
int fake_cuda_context_depth() { return static_cast<int>(contexts.size()); }
}
