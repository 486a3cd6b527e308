// The Python module jax_fa4._ext: hands out FFI handlers and facts of the build. No logic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <string>
#include <type_traits>
#include <vector>

#include "backward.h"
#include "forward.h"
#include "variants.h"

namespace nb = nanobind;

namespace {

template <typename Handler>
nb::capsule Capsule(Handler* handler) {
  static_assert(std::is_invocable_r_v<XLA_FFI_Error*, Handler, XLA_FFI_CallFrame*>,
                "an FFI handler takes XLA_FFI_CallFrame* and returns XLA_FFI_Error*");
  return nb::capsule(reinterpret_cast<void*>(handler));
}

using Stages = std::map<std::string, nb::capsule>;

std::map<std::string, Stages> Registrations() {
  return {
      {"jax_fa4_fwd_v1",
       {{"initialize", Capsule(jax_fa4_fwd_v1_initialize)}, {"execute", Capsule(jax_fa4_fwd_v1)}}},
      {"jax_fa4_bwd_preprocess_v1",
       {{"initialize", Capsule(jax_fa4_bwd_preprocess_v1_initialize)},
        {"execute", Capsule(jax_fa4_bwd_preprocess_v1)}}},
  };
}

std::vector<std::string> VariantNames() {
  std::vector<std::string> names;
  for (const jax_fa4::Variant& variant : jax_fa4::kVariants) names.emplace_back(variant.name);
  return names;
}

std::map<std::string, std::string> BuildInfo() {
  return {
      {"ffi_api_version",
       std::to_string(XLA_FFI_API_MAJOR) + "." + std::to_string(XLA_FFI_API_MINOR)},
      {"cutlass_dsl_version", jax_fa4::kCutlassDslVersion},
      {"compiler", "g++ " __VERSION__},
      {"fingerprint", jax_fa4::kFingerprint},
  };
}

}  // namespace

NB_MODULE(_ext, module) {
  module.doc() = "FFI handlers of jax_fa4 and the compiled kernels behind them.";
  module.def("registrations", &Registrations,
             "FFI target -> stage -> handler, as jax.ffi.register_ffi_target takes them.");
  module.def("variant_names", &VariantNames, "The kernels in this build, by name.");
  module.def("build_info", &BuildInfo, "What this extension was built with.");
}
