#include "emulated_launch.h"

#include <cstring>
#include <string>
#include <utility>

#include "runtime/emulator.h"

namespace jax_fa4 {
namespace {

constexpr std::pair<std::string_view, emulator::Completion> kCompletions[] = {
    {"earliest", emulator::Completion::kEarliest},
    {"latest", emulator::Completion::kLatest},
    {"random", emulator::Completion::kRandom},
};

constexpr std::pair<std::string_view, emulator::Level> kLevels[] = {
    {"ptx", emulator::Level::kPtx},
    {"hardware", emulator::Level::kHardware},
};

// Of a warp. A minute or two of emulation, far above what kernels need; a warp that gets there
// loops forever.
constexpr uint64_t kMaxInstructions = uint64_t{1} << 30;

emulator::GlobalRange RangeOf(const Named& argument, bool writable) {
  emulator::GlobalRange range;
  range.begin = reinterpret_cast<uint64_t>(argument.buffer.untyped_data());
  range.end = range.begin + argument.buffer.size_bytes();
  range.writable = writable;
  range.name = std::string(argument.name);
  return range;
}

// A word that stands for a value.
template <typename T, size_t N>
ffi::Error ReadChoice(std::string_view operation, const ffi::Dictionary& attributes,
                      std::string_view name, const std::pair<std::string_view, T> (&choices)[N],
                      std::string_view expected, T* value) {
  std::string_view word;
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(operation, attributes, name, &word));
  for (const auto& [choice, meaning] : choices) {
    if (choice != word) continue;
    *value = meaning;
    return ffi::Error::Success();
  }
  return InvalidArgument(operation, name, " \"", word, "\": must be ", expected);
}

ffi::Error ReadSpecial(std::string_view operation, const ffi::Dictionary& attributes,
                       const emulator::SpecialTables** tables) {
  std::string_view special;
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(operation, attributes, "special", &special));
  if (special == "rounded") return ffi::Error::Success();
  if (special != "h100") {
    return InvalidArgument(operation, "special \"", special, "\": must be rounded or h100");
  }
  *tables = LoadedSpecialTables();
  if (*tables != nullptr) return ffi::Error::Success();
  return FailedPrecondition(operation,
                            "special \"h100\": the tables are not loaded in this process; "
                            "jax_fa4.emulator.load_special_tables does it");
}

ffi::Error NotLoaded(const Operation& operation, std::string_view variants) {
  return FailedPrecondition(operation.name, "variants=\"", variants,
                            "\": the emulator has no PTX of them in this process; load it with "
                            "jax_fa4.emulator.load");
}

std::vector<emulator::GlobalRange> Ranges(const KernelMemory& memory) {
  std::vector<emulator::GlobalRange> ranges;
  for (const Named& buffer : memory.reads) ranges.push_back(RangeOf(buffer, false));
  for (const Named& buffer : memory.updates) ranges.push_back(RangeOf(buffer, true));
  for (const Named& buffer : memory.writes) ranges.push_back(RangeOf(buffer, true));
  return ranges;
}

ffi::Error LaunchOne(const Operation& operation, const EmulatorSettings& settings,
                     KernelLaunch* launch) {
  const Variant& variant = *launch->variant;
  const EmulatedProgram program = FindEmulated(variant.name);
  if (program == nullptr) return NotLoaded(operation, variant.name);
  for (const Named& result : launch->memory.writes) {
    std::memset(result.buffer.untyped_data(), 0xff, result.buffer.size_bytes());
  }
  Emulator backend(variant, program, settings.sm_count, Ranges(launch->memory), settings.options);
  BackendScope scope(&backend, nullptr);
  *launch->fields.stream = nullptr;
  if (launch->fields.sm_count != nullptr) *launch->fields.sm_count = settings.sm_count;
  CudaResult result = kCudaSuccess;
  launch->arguments.push_back(&result);
  variant.launch(launch->arguments.data(), static_cast<int32_t>(launch->arguments.size()));
  if (result == kCudaSuccess) return ffi::Error::Success();
  return ffi::Error::Internal(
      Message(operation.name, variant.name, " on the emulator: ", backend.Describe(result)));
}

}  // namespace

ffi::Error ReadEmulatorSettings(std::string_view operation, const ffi::Dictionary& attributes,
                                EmulatorSettings* settings) {
  int64_t seed = 0;
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(operation, attributes, "seed", &seed));
  JAX_FA4_RETURN_IF_ERROR(
      ReadAttribute(operation, attributes, "exact", &settings->options.exact_tensor_cores));
  JAX_FA4_RETURN_IF_ERROR(ReadAttribute(operation, attributes, "sm_count", &settings->sm_count));
  settings->options.seed = static_cast<uint64_t>(seed);
  settings->options.max_instructions = kMaxInstructions;
  JAX_FA4_RETURN_IF_ERROR(ReadSpecial(operation, attributes, &settings->options.special_tables));
  if (settings->sm_count < 1) {
    return InvalidArgument(operation, "sm_count ", settings->sm_count, ": must be at least 1");
  }
  if (attributes.contains("level")) {  // calls exported before there was one mean ptx
    JAX_FA4_RETURN_IF_ERROR(ReadChoice(operation, attributes, "level", kLevels, "ptx or hardware",
                                       &settings->options.level));
  }
  return ReadChoice(operation, attributes, "completion", kCompletions, "earliest, latest or random",
                    &settings->options.completion);
}

ffi::Error LaunchEmulated(const Operation& operation, const std::vector<const Variant*>& variants,
                          const EmulatorSettings& settings, const KernelPlan& plan) {
  for (const Variant* variant : variants) {
    if (FindEmulated(variant->name) == nullptr) continue;
    for (KernelLaunch& launch : plan(*variant)) {
      JAX_FA4_RETURN_IF_ERROR(LaunchOne(operation, settings, &launch));
    }
    return ffi::Error::Success();
  }
  return NotLoaded(operation, operation.variants);
}

}  // namespace jax_fa4
