// The engine behind one C function, for tests that call it through ctypes.
#include <cstring>
#include <string>

#include "emulator/emulator.h"

namespace {

using namespace jax_fa4::emulator;

// Laid out as conftest.py's ctypes.Structure of the same name.
struct Run {
  const char* ptx;
  uint64_t ptx_bytes;
  uint32_t grid[3], block[3], cluster[3];
  uint32_t dynamic_shared_bytes;
  const uint8_t* parameters;
  uint64_t parameter_bytes;
  const uint64_t* ranges;  // begin, end, writable
  uint64_t range_count;
  uint64_t seed;
  uint64_t completion;
  uint64_t exact_tensor_cores;
  uint64_t max_instructions;
  const int8_t* special_tables;  // null, or three of SpecialTables::kEntries, one after the other
  uint64_t hardware_level;
};

Dim3 ToDim3(const uint32_t* values) { return {values[0], values[1], values[2]}; }

// As an H100 rounds; kept, for a process has one set of tables.
const SpecialTables* Tables(const int8_t* entries) {
  if (entries == nullptr) return nullptr;
  static const auto* const tables = [&] {
    constexpr size_t kEntries = SpecialTables::kEntries;
    return new SpecialTables{{entries, entries + kEntries},
                             {entries + kEntries, entries + 2 * kEntries},
                             {entries + 2 * kEntries, entries + 3 * kEntries}};
  }();
  return tables;
}

// Of the last text, which is launched many times on end.
const Kernel& Loaded(std::string_view ptx) {
  thread_local std::string text;
  thread_local Kernel kernel = LoadKernel(text);
  if (ptx != text) {
    kernel = LoadKernel(ptx);
    text = ptx;
  }
  return kernel;
}

std::string RunIt(const Run& run) {
  const Kernel& kernel = Loaded(std::string_view(run.ptx, run.ptx_bytes));
  if (kernel.program == nullptr) return "syntax: " + kernel.error;
  Launch launch;
  launch.grid = ToDim3(run.grid);
  launch.block = ToDim3(run.block);
  launch.cluster = ToDim3(run.cluster);
  launch.dynamic_shared_bytes = run.dynamic_shared_bytes;
  launch.parameters.assign(run.parameters, run.parameters + run.parameter_bytes);
  for (uint64_t i = 0; i < run.range_count; ++i) {
    const uint64_t* range = run.ranges + 3 * i;
    launch.memory.push_back({range[0], range[1], range[2] != 0, "argument " + std::to_string(i)});
  }
  Options options;
  options.seed = run.seed;
  options.completion = static_cast<Completion>(run.completion);
  options.exact_tensor_cores = run.exact_tensor_cores != 0;
  options.max_instructions = run.max_instructions;
  options.special_tables = Tables(run.special_tables);
  options.level = run.hardware_level != 0 ? Level::kHardware : Level::kPtx;
  const Report report = RunKernel(*kernel.program, launch, options);
  return report.ok ? std::string() : report.error;
}

}  // namespace

// Writes what went wrong, cut to `size` bytes; empty if the kernel ran.
extern "C" void run_kernel(const Run* run, char* error, uint64_t size) {
  const std::string text = RunIt(*run).substr(0, size - 1);
  std::memcpy(error, text.c_str(), text.size() + 1);
}
