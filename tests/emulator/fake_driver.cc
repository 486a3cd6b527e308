// The CUDA driver's functions that tests/gpu/driver.py calls, with the emulator as the device: what
// is packed wrongly there fails here already.
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "emulator/emulator.h"

namespace {

using namespace jax_fa4::emulator;

enum Status : int { kSuccess = 0, kInvalidValue = 1, kInvalidPtx = 218, kLaunchFailed = 719 };

struct LaunchAttribute {
  uint32_t id, pad, value[16];
};

struct LaunchConfig {
  uint32_t grid[3], block[3], shared;
  void* stream;
  const LaunchAttribute* attributes;
  uint32_t attribute_count;
};
static_assert(sizeof(LaunchConfig) == 56 && sizeof(LaunchAttribute) == 72, "as in cuda.h");

std::map<uint64_t, uint64_t> memory;  // begin to end
uint32_t shared_limit = 48 << 10;

Dim3 ToDim3(const uint32_t* values) { return {values[0], values[1], values[2]}; }

std::vector<uint8_t> Parameters(const Program& program, void** values) {
  std::vector<uint8_t> block;
  for (const Parameter& parameter : program.entry->parameters) {
    block.resize(parameter.offset + parameter.size);
    std::memcpy(block.data() + parameter.offset, *values++, parameter.size);
  }
  return block;
}

}  // namespace

extern "C" {

int cuInit(unsigned flags) { return flags == 0 ? kSuccess : kInvalidValue; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal; }
int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = &memory;
  return device;
}
int cuCtxSetCurrent(void* context) { return context == &memory ? kSuccess : kInvalidValue; }
int cuCtxSynchronize() { return kSuccess; }
int cuDeviceGetName(char* name, int size, int) {
  std::strncpy(name, "the emulator", size);
  return kSuccess;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  constexpr int kMajor = 75;  // of the compute capability
  *value = attribute == kMajor ? 9 : 0;
  return 0;
}
int cuDriverGetVersion(int* version) {
  *version = 13000;
  return kSuccess;
}
int cuGetErrorName(int status, const char** name) {
  *name = status == kInvalidPtx ? "CUDA_ERROR_INVALID_PTX" : "CUDA_ERROR";
  return kSuccess;
}

int cuModuleLoadDataEx(void** module, const char* text, unsigned count, const int* options,
                       void** values) {
  Kernel kernel = LoadKernel(text);
  if (kernel.program == nullptr) {
    if (count == 2 && options[0] == 5 && options[1] == 6) {
      std::strncpy(static_cast<char*>(values[0]), kernel.error.c_str(),
                   reinterpret_cast<uint64_t>(values[1]) - 1);
    }
    return kInvalidPtx;
  }
  *module = new Kernel(std::move(kernel));
  return kSuccess;
}
int cuModuleUnload(void* module) {
  delete static_cast<Kernel*>(module);
  return kSuccess;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = module;
  shared_limit = 48 << 10;
  const bool found = static_cast<Kernel*>(module)->program->entry->name == name;
  return found ? kSuccess : kInvalidValue;
}
int cuFuncGetParamInfo(void* function, uint64_t index, uint64_t* offset, uint64_t* size) {
  const auto& parameters = static_cast<Kernel*>(function)->program->entry->parameters;
  if (index >= parameters.size()) return kInvalidValue;
  *offset = parameters[index].offset;
  *size = parameters[index].size;
  return kSuccess;
}
int cuFuncSetAttribute(void*, int attribute, int value) {
  if (attribute != 8) return kInvalidValue;
  shared_limit = value;
  return kSuccess;
}

int cuMemAlloc_v2(uint64_t* address, uint64_t bytes) {
  const uint64_t whole = (bytes + 255) / 256 * 256;
  *address = reinterpret_cast<uint64_t>(std::aligned_alloc(256, whole));
  memory[*address] = *address + bytes;
  return kSuccess;
}
int cuMemFree_v2(uint64_t address) {
  memory.erase(address);
  std::free(reinterpret_cast<void*>(address));
  return kSuccess;
}
int cuMemcpyHtoD_v2(uint64_t to, const void* from, uint64_t bytes) {
  std::memcpy(reinterpret_cast<void*>(to), from, bytes);
  return kSuccess;
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, uint64_t bytes) {
  std::memcpy(to, reinterpret_cast<void*>(from), bytes);
  return kSuccess;
}

// The fields as the emulator reads them; bit 21 of word 1 is left to whoever likes it.
int cuTensorMapEncodeTiled(uint64_t* map, int type, uint32_t rank, uint64_t address,
                           const uint64_t* dims, const uint64_t* strides, const uint32_t* box,
                           const uint32_t* steps, int interleave, int swizzle, int promotion,
                           int fill) {
  if (reinterpret_cast<uint64_t>(map) % 64 != 0 || rank < 1 || rank > 5) return kInvalidValue;
  if (interleave != 0 || address % 16 != 0) return kInvalidValue;
  static const int kTypes[] = {0, 1, 2, 3, 4, 5, 6, 7, 9, 10};
  uint64_t words[16] = {address};
  words[1] = (rank - 1) << 4 | kTypes[type] << 7 | swizzle << 13 | fill << 15 | promotion << 17;
  uint64_t shifted[5] = {}, size[5] = {}, extent[5] = {};
  for (uint32_t axis = 0; axis < rank; ++axis) {
    if (axis > 0) shifted[axis] = strides[axis - 1] >> 4;
    size[axis] = dims[axis] - 1;
    extent[axis] = box[axis] - 1;
    words[6] |= uint64_t{steps[axis] - 1} << (32 + 3 * axis);
  }
  words[1] |= shifted[1] << 32;
  words[2] = (shifted[2] & 0xffffffff) | shifted[3] << 32;
  words[3] = shifted[4] & 0xffffffff;
  words[4] = size[0] | size[1] << 32;
  words[5] = size[2] | size[3] << 32;
  words[6] |= size[4] | extent[0] << 56;
  words[7] = extent[1] | extent[2] << 8 | extent[3] << 16 | extent[4] << 24;
  std::memcpy(map, words, sizeof(words));
  return kSuccess;
}

int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void** extra) {
  const Program& program = *static_cast<Kernel*>(function)->program;
  if (extra != nullptr || config->shared > shared_limit) return kInvalidValue;
  if (config->attribute_count != 1 || config->attributes->id != 4) return kInvalidValue;
  Launch launch;
  launch.grid = ToDim3(config->grid);
  launch.block = ToDim3(config->block);
  launch.cluster = ToDim3(config->attributes->value);
  launch.dynamic_shared_bytes = config->shared;
  launch.parameters = Parameters(program, parameters);
  for (const auto& [begin, end] : memory) launch.memory.push_back({begin, end, true, "memory"});
  Options options;
  options.max_instructions = uint64_t{1} << 22;
  const Report report = RunKernel(program, launch, options);
  if (report.error.find("runaway") == 0) {
    for (;;) {
    }
  }
  return report.ok ? kSuccess : kLaunchFailed;
}

}  // extern "C"
