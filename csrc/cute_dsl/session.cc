#include "cute_dsl/session.h"

#include <cstring>
#include <map>
#include <mutex>

#include "runtime/captured_launch.h"
#include "runtime/recordings.h"

namespace jax_fa4::cute_dsl {
namespace {

// A binary that was registered, and those of its kernels that host code asked for. Host code keeps
// pointers to both as its handles, so they live as long as the process.
struct Library {
  std::string ptx;
  std::mutex mutex;
  std::map<std::string, emulator::Kernel, std::less<>> kernels;
};

struct Registry {
  std::mutex mutex;
  std::map<std::string, std::unique_ptr<Library>, std::less<>> by_cubin;
};

Registry& Registered() {
  static Registry* const registry = new Registry;
  return *registry;
}

Library* Find(std::string_view cubin) {
  Registry& registry = Registered();
  std::lock_guard<std::mutex> lock(registry.mutex);
  const auto found = registry.by_cubin.find(cubin);
  return found == registry.by_cubin.end() ? nullptr : found->second.get();
}

template <typename T>
T ReadAt(const char* image, size_t offset) {
  T value;
  std::memcpy(&value, image + offset, sizeof(value));
  return value;
}

// The one GPU binary in a fat binary: a header {magic, version u16, its size u16, bytes u64}, then
// {kind u16, u16, size of this header u32, bytes u64} and the binary itself, as an ELF file. Empty
// if the image is anything else.
std::string_view CubinOf(const void* image) {
  constexpr uint32_t kFatBinary = 0xBA55ED50;
  constexpr uint16_t kElf = 2;
  const char* const fat = static_cast<const char*>(image);
  if (ReadAt<uint32_t>(fat, 0) != kFatBinary) return {};
  const size_t entry = ReadAt<uint16_t>(fat, 6);
  if (ReadAt<uint16_t>(fat, entry) != kElf) return {};
  return {fat + entry + ReadAt<uint32_t>(fat, entry + 4), ReadAt<uint64_t>(fat, entry + 8)};
}

}  // namespace

void Register(std::string_view cubin, std::string_view ptx) {
  Registry& registry = Registered();
  std::lock_guard<std::mutex> lock(registry.mutex);
  std::unique_ptr<Library>& library = registry.by_cubin[std::string(cubin)];
  if (library != nullptr) return;  // host code may hold its handle
  library = std::make_unique<Library>();
  library->ptx = std::string(ptx);
}

CudaResult Session::Fail(std::string error) {
  if (error_.empty()) error_ = std::move(error);
  return kCudaErrorUnknown;
}

CudaResult Session::LibraryLoadData(CudaLibrary* library, const void* image) {
  const std::string_view cubin = CubinOf(image);
  if (cubin.empty()) return Fail("the host code holds an image that is no fat binary with one ELF");
  Library* const found = Find(cubin);
  if (found == nullptr)
    return Fail("the host code holds a GPU binary whose PTX was not registered");
  *library = reinterpret_cast<CudaLibrary>(found);
  return kCudaSuccess;
}

CudaResult Session::LibraryGetKernel(CudaKernel* kernel, CudaLibrary handle, const char* name) {
  Library& library = *reinterpret_cast<Library*>(handle);
  std::lock_guard<std::mutex> lock(library.mutex);
  auto found = library.kernels.find(name);
  if (found == library.kernels.end()) {
    found = library.kernels.emplace(name, emulator::LoadKernel(library.ptx, name)).first;
  }
  if (found->second.program == nullptr) return Fail(found->second.error);
  *kernel = reinterpret_cast<CudaKernel>(&found->second);
  return kCudaSuccess;
}

// Says that all is well whatever is found: the caller of the compiled function asks for error(),
// and host code would only turn a number into an exception without the text.
CudaResult Session::LaunchKernel(const RuntimeLaunchConfig& config, CudaKernel kernel,
                                 void** arguments) {
  if (!error_.empty()) return kCudaSuccess;
  const emulator::Program& program = *reinterpret_cast<emulator::Kernel*>(kernel)->program;
  emulator::Launch launch = CaptureLaunch(config, program, arguments);
  launch.memory = settings_.memory;
  // A registered kernel lives as long as the process: nobody has to own it.
  const std::shared_ptr<const emulator::Program> lasting(std::shared_ptr<void>(), &program);
  const emulator::Report report =
      RunRecorded(program.entry->name, lasting, launch, settings_.options);
  instructions_ += report.instructions;
  ++launches_;
  if (!report.ok) Fail(report.error + "\n  kernel " + program.entry->name);
  return kCudaSuccess;
}

std::string Session::Describe(CudaResult result) {
  return error_.empty() ? "error " + std::to_string(result) : error_;
}

}  // namespace jax_fa4::cute_dsl
