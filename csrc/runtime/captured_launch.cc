#include "runtime/captured_launch.h"

#include <cstring>

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

emulator::Launch CaptureLaunch(const RuntimeLaunchConfig& config, const emulator::Program& program,
                               void** arguments) {
  emulator::Launch launch;
  launch.grid = {config.grid[0], config.grid[1], config.grid[2]};
  launch.block = {config.block[0], config.block[1], config.block[2]};
  launch.cluster = ClusterOf(config);
  launch.dynamic_shared_bytes = static_cast<uint32_t>(config.dynamic_shared_bytes);
  const emulator::Entry& entry = *program.entry;
  launch.parameters.resize(entry.parameter_bytes);
  for (size_t i = 0; i < entry.parameters.size(); ++i) {
    const emulator::Parameter& parameter = entry.parameters[i];
    std::memcpy(launch.parameters.data() + parameter.offset, arguments[i], parameter.size);
  }
  return launch;
}

}  // namespace jax_fa4
