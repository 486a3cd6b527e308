// The Python module jax_fa4._ext: hands out FFI handlers and facts of the build. No logic here.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "backward.h"
#include "backward_bounded.h"
#include "backward_preprocess.h"
#include "decode.h"
#include "forward.h"
#include "forward_bounded.h"
#include "runtime/emulator.h"
#include "runtime/recordings.h"
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
      {"jax_fa4_fwd_fp8_v1",
       {{"initialize", Capsule(jax_fa4_fwd_fp8_v1_initialize)},
        {"execute", Capsule(jax_fa4_fwd_fp8_v1)}}},
      {"jax_fa4_fwd_bounded_v1",
       {{"initialize", Capsule(jax_fa4_fwd_bounded_v1_initialize)},
        {"execute", Capsule(jax_fa4_fwd_bounded_v1)}}},
      {"jax_fa4_bwd_v1",
       {{"initialize", Capsule(jax_fa4_bwd_v1_initialize)}, {"execute", Capsule(jax_fa4_bwd_v1)}}},
      {"jax_fa4_bwd_bounded_v1",
       {{"initialize", Capsule(jax_fa4_bwd_bounded_v1_initialize)},
        {"execute", Capsule(jax_fa4_bwd_bounded_v1)}}},
      {"jax_fa4_bwd_preprocess_v1",
       {{"initialize", Capsule(jax_fa4_bwd_preprocess_v1_initialize)},
        {"execute", Capsule(jax_fa4_bwd_preprocess_v1)}}},
      {"jax_fa4_decode_v1",
       {{"initialize", Capsule(jax_fa4_decode_v1_initialize)},
        {"execute", Capsule(jax_fa4_decode_v1)}}},
  };
}

std::map<std::string, Stages> EmulatorRegistrations() {
  return {
      {"jax_fa4_emulated_fwd_v1", {{"execute", Capsule(jax_fa4_emulated_fwd_v1)}}},
      {"jax_fa4_emulated_fwd_fp8_v1", {{"execute", Capsule(jax_fa4_emulated_fwd_fp8_v1)}}},
      {"jax_fa4_emulated_fwd_bounded_v1", {{"execute", Capsule(jax_fa4_emulated_fwd_bounded_v1)}}},
      {"jax_fa4_emulated_bwd_bounded_v1", {{"execute", Capsule(jax_fa4_emulated_bwd_bounded_v1)}}},
      {"jax_fa4_emulated_bwd_v1", {{"execute", Capsule(jax_fa4_emulated_bwd_v1)}}},
      {"jax_fa4_emulated_bwd_preprocess_v1",
       {{"execute", Capsule(jax_fa4_emulated_bwd_preprocess_v1)}}},
      {"jax_fa4_emulated_decode_v1", {{"execute", Capsule(jax_fa4_emulated_decode_v1)}}},
  };
}

void EmulatorLoad(const std::string& variant, const std::string& ptx) {
  const std::string error = jax_fa4::LoadEmulated(variant, ptx);
  if (!error.empty()) throw std::invalid_argument(error);  // ValueError
}

void EmulatorLoadSpecialTables(const nb::bytes& ex2_positive, const nb::bytes& ex2_negative,
                               const nb::bytes& rcp) {
  const auto table = [](const nb::bytes& bytes) {
    const auto* data = static_cast<const int8_t*>(bytes.data());
    return std::vector<int8_t>(data, data + bytes.size());
  };
  if (!jax_fa4::LoadSpecialTables({table(ex2_positive), table(ex2_negative), table(rcp)})) {
    throw std::invalid_argument("a table of 2**23 bytes each is expected");  // ValueError
  }
}

template <typename T>
nb::bytes Bytes(const std::vector<T>& values) {
  return nb::bytes(values.data(), values.size() * sizeof(T));
}

nb::tuple Three(const jax_fa4::emulator::Dim3& size) {
  return nb::make_tuple(size.x, size.y, size.z);
}

// (opcode, PTX line, source file or "", source line) of every instruction.
nb::list Instructions(const jax_fa4::emulator::Program& program) {
  nb::list instructions;
  for (const jax_fa4::emulator::Op& op : program.ops) {
    const auto& where = op.source->where;
    const auto file = program.module.files.find(where.file);
    instructions.append(nb::make_tuple(op.source->text, where.line,
                                       file == program.module.files.end() ? "" : file->second,
                                       where.source_line));
  }
  return instructions;
}

nb::list EmulatorTakeRecordings() {
  nb::list recordings;
  for (const auto& recording : jax_fa4::TakeRecordings()) {
    nb::dict facts;
    facts["name"] = recording->name;
    facts["grid"] = Three(recording->grid);
    facts["block"] = Three(recording->block);
    facts["cluster"] = Three(recording->cluster);
    facts["instructions"] = Instructions(*recording->program);
    facts["events"] = Bytes(recording->trace.events());
    facts["jumps"] = Bytes(recording->trace.jumps());
    facts["counts"] = Bytes(recording->trace.counts());
    facts["dropped"] = recording->trace.dropped();
    facts["steps"] = recording->trace.steps();
    facts["finding"] = recording->report.error;
    recordings.append(facts);
  }
  return recordings;
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
  module.def("emulator_registrations", &EmulatorRegistrations,
             "The same for the emulator, which is for the platform cpu.");
  module.def("emulator_load", &EmulatorLoad, nb::arg("variant"), nb::arg("ptx"),
             "Give the emulator the PTX of a variant; ValueError if it cannot read it.");
  module.def("emulator_load_special_tables", &EmulatorLoadSpecialTables, nb::arg("ex2_positive"),
             nb::arg("ex2_negative"), nb::arg("rcp"),
             "Give the emulator an H100's rounding; ValueError if a table has another size.");
  module.def("emulator_start_recording", &jax_fa4::StartRecording, nb::arg("max_events"),
             "Record every emulated launch from now on.");
  module.def("emulator_take_recordings", &EmulatorTakeRecordings,
             nb::sig("def emulator_take_recordings() -> list[dict[str, object]]"),
             "End that; facts of each launch since, as jax_fa4.emulator.recording reads them.");
  module.def("variant_names", &VariantNames, "The kernels in this build, by name.");
  module.def("build_info", &BuildInfo, "What this extension was built with.");
}
