#include "runtime/emulator.h"

#include <map>
#include <mutex>

#include "runtime/captured_launch.h"
#include "runtime/recordings.h"

namespace jax_fa4 {
namespace {

struct LoadedPrograms {
  std::mutex mutex;
  const emulator::SpecialTables* special = nullptr;  // set once; lives as long as the process
  std::map<std::string, EmulatedProgram, std::less<>> by_variant;
};

LoadedPrograms& Loaded() {
  static LoadedPrograms* const loaded = new LoadedPrograms;  // lives as long as the process
  return *loaded;
}

}  // namespace

std::string LoadEmulated(const std::string& variant, const std::string& ptx) {
  emulator::Kernel kernel = emulator::LoadKernel(ptx);
  if (kernel.program == nullptr) return variant + ": " + kernel.error;
  EmulatedProgram program = std::move(kernel.program);
  LoadedPrograms& loaded = Loaded();
  std::lock_guard<std::mutex> lock(loaded.mutex);
  loaded.by_variant[variant] = std::move(program);
  return std::string();
}

EmulatedProgram FindEmulated(std::string_view variant) {
  LoadedPrograms& loaded = Loaded();
  std::lock_guard<std::mutex> lock(loaded.mutex);
  const auto found = loaded.by_variant.find(variant);
  return found == loaded.by_variant.end() ? nullptr : found->second;
}

bool LoadSpecialTables(emulator::SpecialTables tables) {
  if (!tables.Complete()) return false;
  LoadedPrograms& loaded = Loaded();
  std::lock_guard<std::mutex> lock(loaded.mutex);
  // A run may be reading the first ones: they stay.
  if (loaded.special == nullptr) loaded.special = new emulator::SpecialTables(std::move(tables));
  return true;
}

const emulator::SpecialTables* LoadedSpecialTables() {
  LoadedPrograms& loaded = Loaded();
  std::lock_guard<std::mutex> lock(loaded.mutex);
  return loaded.special;
}

CudaResult Emulator::LaunchKernel(const RuntimeLaunchConfig& config, CudaKernel /*kernel*/,
                                  void** arguments) {
  emulator::Launch launch = CaptureLaunch(config, *program_, arguments);
  launch.memory = memory_;
  const emulator::Report report =
      RunRecorded(std::string(variant_.name), program_, launch, options_);
  error_ = report.error;
  return report.ok ? kCudaSuccess : kCudaErrorUnknown;
}

CudaResult Emulator::LibraryLoadData(CudaLibrary*, const void*) { return kCudaErrorNotSupported; }

CudaResult Emulator::LibraryGetKernel(CudaKernel*, CudaLibrary, const char*) {
  return kCudaErrorNotSupported;
}

CudaResult Emulator::Fail(std::string error) {
  error_ = std::move(error);
  return kCudaErrorNotSupported;
}

std::string Emulator::Describe(CudaResult result) {
  if (!error_.empty()) return error_;
  return "the kernel's host code gave up with error " + std::to_string(result);
}

}  // namespace jax_fa4
