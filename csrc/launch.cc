#include "launch.h"

#include <atomic>
#include <mutex>
#include <utility>

#include "runtime/driver.h"

namespace jax_fa4 {
namespace {

// What a process knows about one compiled kernel. Its library holds for all devices; each device
// is prepared once (attributes set, code loaded), under the lock, before its first launch.
struct LoadState {
  static constexpr int kMaxDevices = 64;
  std::mutex mutex;
  CudaLibrary library = nullptr;
  std::atomic<uint64_t> ready_devices{0};
};

LoadState& StateOf(const Variant& variant) {
  static LoadState* const states = new LoadState[kVariants.size];  // lives as long as the process
  return states[&variant - kVariants.first];
}

// Entry points take one argument: an array of addresses, the last of them the result's.
CudaResult InitLibrary(const Variant& variant, CudaLibrary* library) {
  CudaResult result = kCudaSuccess;
  void* arguments[] = {&library, &result};
  variant.init(arguments);
  return result;
}

CudaResult LoadToDevice(const Variant& variant, CudaLibrary* library, CudaDevice device) {
  CudaResult result = kCudaSuccess;
  void* arguments[] = {&library, &device, &result};
  variant.load_to_device(arguments);
  return result;
}

// Needs a BackendScope in a context of `device`.
CudaResult EnsureLoaded(const Variant& variant, CudaDevice device) {
  LoadState& state = StateOf(variant);
  const uint64_t bit = uint64_t{1} << device;
  if (state.ready_devices.load(std::memory_order_acquire) & bit) return kCudaSuccess;
  std::lock_guard<std::mutex> lock(state.mutex);
  if (state.ready_devices.load(std::memory_order_relaxed) & bit) return kCudaSuccess;
  if (state.library == nullptr) {
    CudaResult result = InitLibrary(variant, &state.library);
    if (result != kCudaSuccess) {
      state.library = nullptr;
      return result;
    }
  }
  CudaResult result = LoadToDevice(variant, &state.library, device);
  if (result == kCudaSuccess) state.ready_devices.fetch_or(bit, std::memory_order_release);
  return result;
}

std::string_view KindName(VariantKind kind) {
  switch (kind) {
    case VariantKind::kForward:
      return "forward";
    case VariantKind::kForwardBounded:
      return "bounded forward";
    case VariantKind::kBackwardPreprocess:
      return "backward preprocess";
    case VariantKind::kBackward:
      return "backward";
    case VariantKind::kBackwardBounded:
      return "bounded backward";
    case VariantKind::kBackwardPostprocess:
      return "backward postprocess";
    case VariantKind::kDecode:
      return "decode";
    case VariantKind::kDecodeCombine:
      return "decode combine";
  }
  return "unknown";
}

std::string BuiltVariants() {
  std::string names;
  for (const Variant& variant : kVariants) {
    names.append(names.empty() ? "" : " ").append(variant.name);
  }
  return names.empty() ? "none" : names;
}

struct Device {
  CudaDevice ordinal = 0;
  int major = 0;
  int minor = 0;
  int sm_count = 0;
};

// The current device. Needs a BackendScope.
ffi::Error FindDevice(const Operation& operation, Backend* backend, Device* device) {
  CudaResult result = backend->GetDevice(&device->ordinal);
  const std::pair<int, int*> attributes[] = {
      {kDeviceAttributeComputeCapabilityMajor, &device->major},
      {kDeviceAttributeComputeCapabilityMinor, &device->minor},
      {kDeviceAttributeMultiprocessorCount, &device->sm_count},
  };
  for (const auto& [attribute, value] : attributes) {
    if (result != kCudaSuccess) break;
    result = backend->DeviceGetAttribute(value, attribute, device->ordinal);
  }
  if (result != kCudaSuccess) {
    return CudaError(operation.name, operation.variants, backend, result);
  }
  if (device->ordinal >= LoadState::kMaxDevices) {
    return FailedPrecondition(operation.name, "device ordinal ", device->ordinal, "; at most ",
                              LoadState::kMaxDevices, " devices are supported");
  }
  return ffi::Error::Success();
}

// Loads a kernel for the device if nobody did. Needs a BackendScope.
ffi::Error Load(const Operation& operation, const Variant& variant, Backend* backend,
                const Device& device) {
  CudaResult result = EnsureLoaded(variant, device.ordinal);
  if (result == kCudaSuccess) return ffi::Error::Success();
  return CudaError(operation.name, variant.name, backend, result);
}

// The one of `variants` for the device. Needs a BackendScope.
ffi::Error Choose(const Operation& operation, const std::vector<const Variant*>& variants,
                  Backend* backend, const Device& device, const Variant** chosen) {
  for (const Variant* variant : variants) {
    if (variant->compute_capability_major != device.major) continue;
    *chosen = variant;
    return ffi::Error::Success();
  }
  return FailedPrecondition(operation.name, "none of variants=\"", operation.variants,
                            "\" runs on device ", device.ordinal, " (",
                            backend->DeviceName(device.ordinal), ", compute capability ",
                            device.major, ".", device.minor, ")");
}

// Runs `body(backend, stream)` with the driver answering compiled kernels on this thread.
template <typename Body>
ffi::Error WithDriver(const Operation& operation, const ffi::Context& context, Body body) {
  std::string error;
  Backend* backend = GetDriver(&error);
  if (backend == nullptr) return FailedPrecondition(operation.name, error);
  auto stream = context.get<ffi::PlatformStream<CudaStream>>();
  if (stream.has_error()) {
    return FailedPrecondition(operation.name, stream.error().message());
  }
  BackendScope scope(backend, *stream);
  if (scope.status() != kCudaSuccess) {
    return CudaError(operation.name, operation.variants, backend, scope.status());
  }
  return body(backend, *stream);
}

// Launches one kernel, loading it if nobody did. Needs a BackendScope.
ffi::Error LaunchOne(const Operation& operation, Backend* backend, const Device& device,
                     CudaStream stream, KernelLaunch* launch) {
  JAX_FA4_RETURN_IF_ERROR(Load(operation, *launch->variant, backend, device));
  *launch->fields.stream = stream;
  if (launch->fields.sm_count != nullptr) *launch->fields.sm_count = device.sm_count;
  CudaResult result = kCudaSuccess;
  launch->arguments.push_back(&result);
  launch->variant->launch(launch->arguments.data(), static_cast<int32_t>(launch->arguments.size()));
  if (result == kCudaSuccess) return ffi::Error::Success();
  return CudaError(operation.name, launch->variant->name, backend, result);
}

}  // namespace

ffi::Error FindHelper(std::string_view operation, const Variant& variant, VariantKind kind,
                      const Variant** helper) {
  for (const Variant& other : kVariants) {
    if (other.kind != kind || other.dtype != variant.dtype) continue;
    if (other.compute_capability_major != variant.compute_capability_major) continue;
    *helper = &other;
    return ffi::Error::Success();
  }
  return FailedPrecondition(
      operation, "variant ", variant.name, " needs a ", KindName(kind),
      " kernel for its device, which is not in this build: ", BuiltVariants());
}

ffi::Error FindVariants(const Operation& operation, std::vector<const Variant*>* found) {
  std::string_view rest = operation.variants;
  while (!rest.empty()) {
    const size_t space = rest.find(' ');
    const std::string_view name = rest.substr(0, space);
    rest = space == std::string_view::npos ? std::string_view() : rest.substr(space + 1);
    if (name.empty()) continue;
    const Variant* variant = FindVariant(name);
    if (variant == nullptr) {
      return InvalidArgument(operation.name, "variant ", name,
                             " is not in this build, which has: ", BuiltVariants());
    }
    if (variant->kind != operation.kind) {
      return InvalidArgument(operation.name, "variant ", name, " is a ", KindName(variant->kind),
                             " kernel; a ", KindName(operation.kind), " kernel is needed");
    }
    found->push_back(variant);
  }
  if (found->empty()) {
    return InvalidArgument(operation.name, "variants=\"", operation.variants,
                           "\" names no kernel; this build has: ", BuiltVariants());
  }
  return ffi::Error::Success();
}

ffi::Error Launch(const Operation& operation, const std::vector<const Variant*>& variants,
                  const ffi::Context& context, const KernelPlan& plan) {
  return WithDriver(operation, context, [&](Backend* backend, CudaStream stream) {
    Device device;
    JAX_FA4_RETURN_IF_ERROR(FindDevice(operation, backend, &device));
    const Variant* chosen = nullptr;
    JAX_FA4_RETURN_IF_ERROR(Choose(operation, variants, backend, device, &chosen));
    for (KernelLaunch& launch : plan(*chosen)) {
      JAX_FA4_RETURN_IF_ERROR(LaunchOne(operation, backend, device, stream, &launch));
    }
    return ffi::Error::Success();
  });
}

ffi::Error Initialize(std::string_view operation, VariantKind kind, const ffi::Context& context,
                      const ffi::Dictionary& attributes,
                      std::initializer_list<VariantKind> helpers) {
  auto variants = attributes.get<std::string_view>("variants");
  if (variants.has_error()) return InvalidArgument(operation, variants.error().message());
  const Operation loading{operation, kind, *variants};
  std::vector<const Variant*> found;
  JAX_FA4_RETURN_IF_ERROR(FindVariants(loading, &found));
  return WithDriver(loading, context, [&](Backend* backend, CudaStream) {
    Device device;
    JAX_FA4_RETURN_IF_ERROR(FindDevice(loading, backend, &device));
    const Variant* chosen = nullptr;
    JAX_FA4_RETURN_IF_ERROR(Choose(loading, found, backend, device, &chosen));
    for (VariantKind helper_kind : helpers) {
      const Variant* helper = nullptr;
      JAX_FA4_RETURN_IF_ERROR(FindHelper(operation, *chosen, helper_kind, &helper));
      JAX_FA4_RETURN_IF_ERROR(Load(loading, *helper, backend, device));
    }
    return Load(loading, *chosen, backend, device);
  });
}

}  // namespace jax_fa4
