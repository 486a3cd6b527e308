// From an FFI call to kernels on a stream: choose the variant for the device, load it once per
// device, launch it.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "checks.h"
#include "kernel_arguments.h"
#include "status.h"
#include "variants.h"

namespace jax_fa4 {

// What every handler of one operation knows about its call.
struct Operation {
  std::string_view name;      // the FFI target, "jax_fa4_fwd_v1"
  VariantKind kind;           // of kernels it may run
  std::string_view variants;  // the attribute: space separated names, at most one per architecture
};

// A kernel that others need on their device, for their dtype: the backward's first and last.
// FailedPrecondition if this build lacks it. Touches no CUDA.
ffi::Error FindHelper(std::string_view operation, const Variant& variant, VariantKind kind,
                      const Variant** helper);

// The variants named by `operation`, or which of the names is wrong. Touches no CUDA.
ffi::Error FindVariants(const Operation& operation, std::vector<const Variant*>* found);

// Arguments of an entry point whose values only the launch knows; null if the kernel takes none.
struct LaunchFields {
  CudaStream* stream;
  int32_t* sm_count = nullptr;
};

// What a kernel may touch: the emulator holds it to that.
struct KernelMemory {
  std::vector<Named> reads;
  std::vector<Named> writes;   // every element of them, so that what they held does not matter
  std::vector<Named> updates;  // read and written
};

// One kernel of a call. `arguments` are the addresses of the entry point's arguments, in order;
// those that `fields` points to are filled in by whoever launches.
struct KernelLaunch {
  const Variant* variant;
  std::vector<void*> arguments;
  LaunchFields fields;
  KernelMemory memory;
};

// The kernels of a call, in the order in which they run, once its variant is known.
using KernelPlan = std::function<std::vector<KernelLaunch>(const Variant& chosen)>;

// Launches the plan for the one of `variants` for the stream's device, loading kernels that
// Initialize did not.
ffi::Error Launch(const Operation& operation, const std::vector<const Variant*>& variants,
                  const ffi::Context& context, const KernelPlan& plan);

// The initialize stage of every operation: loads the kernel for the device, and its helpers,
// outside the launch.
ffi::Error Initialize(std::string_view operation, VariantKind kind, const ffi::Context& context,
                      const ffi::Dictionary& attributes,
                      std::initializer_list<VariantKind> helpers = {});

}  // namespace jax_fa4
