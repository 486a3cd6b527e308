// The functions that CuTe DSL's compiled host code calls, over the emulator, for kernels that are
// compiled and called in one process: CUTE_DSL_LIBS names the library made of this file.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>

#include "emulator/emulator.h"

using jax_fa4::emulator::Completion;
using jax_fa4::emulator::Kernel;
using jax_fa4::emulator::Launch;
using jax_fa4::emulator::Level;
using jax_fa4::emulator::LoadKernel;
using jax_fa4::emulator::Options;
using jax_fa4::emulator::Report;
using jax_fa4::emulator::RunKernel;

namespace {

constexpr int kNotFound = 500;
constexpr int kMaxSharedAttribute = 97;
constexpr int kClusterAttribute = 4;

struct State {
  std::map<std::string, std::unique_ptr<Kernel>> kernels;  // by entry
  Launch launch;
  Options options;
  std::string error;
};

State& Shared() {
  static State* const state = new State;  // lives as long as the process
  return *state;
}

struct LaunchAttribute {
  int id;
  int padding;
  uint32_t value[16];
};

struct LaunchConfig {
  uint32_t grid[3];
  uint32_t block[3];
  uint64_t shared_bytes;
  void* stream;
  const LaunchAttribute* attributes;
  uint32_t attribute_count;
};

}  // namespace

extern "C" {

// ---- for the script

// 0, or 1 with the reason in peers_error.
int peers_load(const char* path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  auto kernel = std::make_unique<Kernel>(LoadKernel(text.str()));
  if (kernel->program == nullptr) {
    Shared().error = kernel->error;
    return 1;
  }
  const std::string name = kernel->program->entry->name;
  Shared().kernels[name] = std::move(kernel);
  return 0;
}

void peers_memory(uint64_t begin, uint64_t bytes) {
  Shared().launch.memory.push_back({begin, begin + bytes, true, "a buffer"});
}

void peers_options(uint64_t seed, int completion, int hardware_level) {
  Options& options = Shared().options;
  options.seed = seed;
  options.completion = static_cast<Completion>(completion);
  options.level = hardware_level != 0 ? Level::kHardware : Level::kPtx;
  Shared().launch.memory.clear();
  Shared().error.clear();
}

const char* peers_error() { return Shared().error.c_str(); }

// ---- for the compiled host code

int _cudaLibraryLoadData(void** library, const void*, void*, void**, unsigned, void*, void**,
                         unsigned) {
  *library = &Shared();
  return 0;
}

int _cudaLibraryGetKernel(void** kernel, void*, const char* name) {
  const auto found = Shared().kernels.find(name);
  if (found == Shared().kernels.end()) return kNotFound;
  *kernel = found->second.get();
  return 0;
}

// A finding goes to peers_error: an error code would make the caller raise without the text.
int _cudaLaunchKernelEx(const LaunchConfig* config, void* kernel, void** arguments) {
  State& state = Shared();
  Launch& launch = state.launch;
  launch.grid = {config->grid[0], config->grid[1], config->grid[2]};
  launch.block = {config->block[0], config->block[1], config->block[2]};
  launch.cluster = {1, 1, 1};
  for (uint32_t i = 0; i < config->attribute_count; ++i) {
    const LaunchAttribute& attribute = config->attributes[i];
    if (attribute.id != kClusterAttribute) continue;
    launch.cluster = {attribute.value[0], attribute.value[1], attribute.value[2]};
  }
  launch.dynamic_shared_bytes = static_cast<uint32_t>(config->shared_bytes);
  const auto& program = *static_cast<const Kernel*>(kernel)->program;
  launch.parameters.assign(program.entry->parameter_bytes, 0);
  for (size_t i = 0; i < program.entry->parameters.size(); ++i) {
    const auto& parameter = program.entry->parameters[i];
    std::memcpy(launch.parameters.data() + parameter.offset, arguments[i], parameter.size);
  }
  const Report report = RunKernel(program, launch, state.options);
  if (!report.ok) state.error = report.error;
  return 0;
}

int _cudaKernelSetAttributeForDevice(void*, int, int, int) { return 0; }
int _cudaFuncSetAttribute(void*, int, int) { return 0; }
int _cudaSetDevice(int) { return 0; }

int _cudaDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == kMaxSharedAttribute ? 232448 : 148;
  return 0;
}

int _cudaGetDevice(int* device) {
  *device = 0;
  return 0;
}

int _cuKernelGetAttribute(int* value, int, void*, int) {
  *value = 0;
  return 0;
}

int cuda_dialect_init_library_once(void** slot, int (*init)(void**), int (*load)(void**, int),
                                   void (*)(const char*, const char*)) {
  if (*slot != nullptr) return 0;
  const int result = init(slot);
  return result != 0 ? result : load(slot, 0);
}

void cuda_dialect_unload_library_once(void**) {}
void CuteDSLRT_TVMFFISetRaisedCudaError(void*, int) {}
void CuteDSLRT_TVMFFISetRaisedCudaLaunchError(void*, int) {}

}  // extern "C"
