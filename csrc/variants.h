// The kernels in this build. The table itself is generated from the manifest of the AOT step
// (cmake/variant_table.cc.in); names and their meaning come from jax_fa4/variants.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace jax_fa4 {

// Kernels of one kind take the same arguments (kernel_arguments.h), but for forwards of 8-bit
// elements.
enum class VariantKind {
  kForward,
  kForwardBounded,
  kBackwardPreprocess,
  kBackward,
  kBackwardBounded,
  kBackwardPostprocess,
  kDecode,
  kDecodeCombine,
};

struct Variant {
  std::string_view name;
  VariantKind kind;
  int compute_capability_major;
  std::string_view dtype;  // "bf16" or "fp16"
  int head_dim;            // of Q and K, the widest that the kernel takes; 0 if any
  int head_dim_v;          // of V and the output, likewise
  bool softcap;            // whether it caps scores; bounded kernels alone may
  // Entry points of the compiled object, see launch.cc for their arguments.
  void (*init)(void** arguments);
  void (*load_to_device)(void** arguments);
  void (*launch)(void** arguments, int32_t count);
};

struct VariantTable {
  const Variant* first;
  int size;
  const Variant* begin() const { return first; }
  const Variant* end() const { return first + size; }
};

extern const VariantTable kVariants;

// What the build was made of: "cutlass_dsl", "fingerprint".
extern const char* const kCutlassDslVersion;
extern const char* const kFingerprint;

// Null if this build has no kernel of that name.
inline const Variant* FindVariant(std::string_view name) {
  for (const Variant& variant : kVariants) {
    if (variant.name == name) return &variant;
  }
  return nullptr;
}

}  // namespace jax_fa4
