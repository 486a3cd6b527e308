// The library that CUTE_DSL_LIBS names: what host code of CuTe DSL calls besides the eight
// functions of runtime/kernel_calls.cc, and the C functions that jax_fa4/emulator/cute_dsl.py
// calls.
#include <optional>
#include <sstream>

#include "cute_dsl/session.h"
#include "runtime/recordings.h"

namespace {

using namespace jax_fa4;

// Laid out as cute_dsl.py's ctypes.Structure of the same name.
struct Request {
  uint64_t seed;
  uint64_t completion;
  uint64_t exact_tensor_cores;
  uint64_t hardware_level;
  uint64_t h100_special;
  uint64_t sm_count;
  uint64_t compute_capability_major;
  const uint64_t* ranges;  // begin, end, writable
  const char* const* names;
  uint64_t range_count;
};

// Laid out as _Facts of cute_dsl_recording.py.
struct RecordingFacts {
  const char* name;
  uint64_t grid[3], block[3], cluster[3];
  const char* instructions;  // a line each: opcode, line, file, line in it; tabs between
  const void* events;
  uint64_t events_bytes;
  const void* jumps;
  uint64_t jumps_bytes;
  const void* counts;
  uint64_t counts_bytes;
  uint64_t dropped, steps;
  const char* finding;
};

void Copy(const emulator::Dim3& size, uint64_t* to) {
  to[0] = size.x;
  to[1] = size.y;
  to[2] = size.z;
}

std::string Instructions(const emulator::Program& program) {
  std::ostringstream text;
  for (const emulator::Op& op : program.ops) {
    const auto& where = op.source->where;
    const auto file = program.module.files.find(where.file);
    text << op.source->text << '\t' << where.line << '\t'
         << (file == program.module.files.end() ? "" : file->second) << '\t' << where.source_line
         << '\n';
  }
  return text.str();
}

emulator::SpecialTables& Tables() {
  static emulator::SpecialTables* const tables = new emulator::SpecialTables;
  return *tables;
}

cute_dsl::Settings ToSettings(const Request& request) {
  cute_dsl::Settings settings;
  settings.options.seed = request.seed;
  settings.options.completion = static_cast<emulator::Completion>(request.completion);
  settings.options.exact_tensor_cores = request.exact_tensor_cores != 0;
  settings.options.level =
      request.hardware_level != 0 ? emulator::Level::kHardware : emulator::Level::kPtx;
  if (request.h100_special != 0) settings.options.special_tables = &Tables();
  settings.sm_count = static_cast<int>(request.sm_count);
  settings.compute_capability_major = static_cast<int>(request.compute_capability_major);
  for (uint64_t i = 0; i < request.range_count; ++i) {
    const uint64_t* range = request.ranges + 3 * i;
    settings.memory.push_back({range[0], range[1], range[2] != 0, request.names[i]});
  }
  return settings;
}

// One call of a compiled function, on the thread that makes it.
struct Call {
  explicit Call(const Request& request) : session(ToSettings(request)), scope(&session, nullptr) {}
  cute_dsl::Session session;
  BackendScope scope;
};

thread_local std::optional<Call> current_call;
thread_local std::string last_error;

}  // namespace

extern "C" {

// ---- for cute_dsl.py

void jax_fa4_register(const char* cubin, uint64_t cubin_bytes, const char* ptx,
                      uint64_t ptx_bytes) {
  cute_dsl::Register({cubin, cubin_bytes}, {ptx, ptx_bytes});
}

// Hardware's rounding of special functions, 2^23 entries each; once, before the first run with
// them.
void jax_fa4_special_tables(const int8_t* ex2_positive, const int8_t* ex2_negative,
                            const int8_t* rcp) {
  constexpr size_t kEntries = emulator::SpecialTables::kEntries;
  Tables().ex2_positive.assign(ex2_positive, ex2_positive + kEntries);
  Tables().ex2_negative.assign(ex2_negative, ex2_negative + kEntries);
  Tables().rcp.assign(rcp, rcp + kEntries);
}

void jax_fa4_begin(const Request* request) { current_call.emplace(*request); }

// What was found since begin; empty if nothing. Good until the thread's next call.
const char* jax_fa4_end(uint64_t* launches, uint64_t* instructions) {
  const cute_dsl::Session& session = current_call->session;
  *launches = session.launches();
  *instructions = session.instructions();
  last_error = session.error();
  current_call.reset();
  return last_error.c_str();
}

// Records every launch from now on.
void jax_fa4_start_recording(uint64_t max_events) { StartRecording(max_events); }

// Ends that; `take` is called for each launch since, with what is good until it returns.
void jax_fa4_take_recordings(void (*take)(const RecordingFacts*)) {
  for (const auto& recording : TakeRecordings()) {
    const emulator::Trace& trace = recording->trace;
    const std::string instructions = Instructions(*recording->program);
    RecordingFacts facts = {};
    facts.name = recording->name.c_str();
    Copy(recording->grid, facts.grid);
    Copy(recording->block, facts.block);
    Copy(recording->cluster, facts.cluster);
    facts.instructions = instructions.c_str();
    facts.events = trace.events().data();
    facts.events_bytes = trace.events().size() * sizeof(emulator::TraceEvent);
    facts.jumps = trace.jumps().data();
    facts.jumps_bytes = trace.jumps().size() * sizeof(emulator::TraceJump);
    facts.counts = trace.counts().data();
    facts.counts_bytes = trace.counts().size() * sizeof(emulator::TraceCount);
    facts.dropped = trace.dropped();
    facts.steps = trace.steps();
    facts.finding = recording->report.error.c_str();
    take(&facts);
  }
}

// ---- for host code

int _cudaSetDevice(int) { return 0; }

// What functions with TVM-FFI's calling convention do before their first launch.
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
