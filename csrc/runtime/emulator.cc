#include "runtime/emulator.h"

#include <cstring>
#include <map>
#include <mutex>

#include "runtime/recordings.h"

namespace jax_fa4 {
namespace {

// CUlaunchAttribute, of which cluster dimensions alone mean something here.
struct LaunchAttribute {
  int id;
  int padding;
  uint32_t value[16];
};
static_assert(sizeof(LaunchAttribute) == 72);
constexpr int kLaunchAttributeClusterDimension = 4;

struct LoadedPrograms {
  std::mutex mutex;
  const emulator::SpecialTables* special = nullptr;  // set once; lives as long as the process
  std::map<std::string, EmulatedProgram, std::less<>> by_variant;
};

LoadedPrograms& Loaded() {
  static LoadedPrograms* const loaded = new LoadedPrograms;  // lives as long as the process
  return *loaded;
}

emulator::Dim3 ClusterOf(const RuntimeLaunchConfig& config) {
  emulator::Dim3 cluster;
  for (uint32_t i = 0; i < config.attribute_count; ++i) {
    LaunchAttribute attribute;
    std::memcpy(&attribute, static_cast<const char*>(config.attributes) + i * sizeof(attribute),
                sizeof(attribute));
    if (attribute.id != kLaunchAttributeClusterDimension) continue;
    cluster = {attribute.value[0], attribute.value[1], attribute.value[2]};
  }
  return cluster;
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
  emulator::Launch launch;
  launch.grid = {config.grid[0], config.grid[1], config.grid[2]};
  launch.block = {config.block[0], config.block[1], config.block[2]};
  launch.cluster = ClusterOf(config);
  launch.dynamic_shared_bytes = static_cast<uint32_t>(config.dynamic_shared_bytes);
  launch.memory = memory_;
  const emulator::Entry& entry = *program_->entry;
  launch.parameters.resize(entry.parameter_bytes);
  for (size_t i = 0; i < entry.parameters.size(); ++i) {
    const emulator::Parameter& parameter = entry.parameters[i];
    std::memcpy(launch.parameters.data() + parameter.offset, arguments[i], parameter.size);
  }
  const emulator::Report report =
      RunRecorded(std::string(variant_.name), program_, launch, options_);
  error_ = report.error;
  return report.ok ? kCudaSuccess : kCudaErrorUnknown;
}

CudaResult Emulator::LibraryLoadData(CudaLibrary*, const void*) { return kCudaErrorNotSupported; }

CudaResult Emulator::LibraryGetKernel(CudaKernel*, CudaLibrary, const char*) {
  return kCudaErrorNotSupported;
}

CudaResult Emulator::KernelSetAttribute(CudaKernel, int, int, CudaDevice) { return kCudaSuccess; }

CudaResult Emulator::KernelGetAttribute(int* value, int, CudaKernel, CudaDevice) {
  *value = 0;  // no static shared memory, registers, and so on that the host code has to count
  return kCudaSuccess;
}

CudaResult Emulator::DeviceGetAttribute(int* value, int attribute, CudaDevice) {
  switch (attribute) {
    case kDeviceAttributeMultiprocessorCount:
      *value = sm_count_;
      return kCudaSuccess;
    case kDeviceAttributeMaxSharedMemoryPerBlockOptin:
      *value = 232448;  // 227 KiB, of Hopper and of Blackwell
      return kCudaSuccess;
    case kDeviceAttributeComputeCapabilityMajor:
      *value = variant_.compute_capability_major;
      return kCudaSuccess;
    case kDeviceAttributeComputeCapabilityMinor:
      *value = 0;
      return kCudaSuccess;
    default:
      error_ = "device attribute " + std::to_string(attribute) + " is not known to the emulator";
      return kCudaErrorNotSupported;
  }
}

CudaResult Emulator::GetDevice(CudaDevice* device) {
  *device = 0;
  return kCudaSuccess;
}

CudaResult Emulator::Enter(CudaStream, bool* entered) {
  *entered = false;
  return kCudaSuccess;
}

std::string Emulator::DeviceName(CudaDevice) { return "the emulator"; }

std::string Emulator::Describe(CudaResult result) {
  if (!error_.empty()) return error_;
  return "the kernel's host code gave up with error " + std::to_string(result);
}

}  // namespace jax_fa4
