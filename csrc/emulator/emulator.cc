#include "emulator/emulator.h"

#include <exception>

namespace jax_fa4::emulator {
namespace {

std::string Describe(const Finding& finding, const Program& program) {
  std::string text = finding.kind + ": " + finding.what;
  text += "\n  CTA " + std::to_string(finding.cta) + ", warp " + std::to_string(finding.warp);
  if (finding.lane >= 0) text += ", lane " + std::to_string(finding.lane);
  text += ": " + finding.instruction + ", PTX line " + std::to_string(finding.where.line);
  const auto file = program.module.files.find(finding.where.file);
  if (file != program.module.files.end()) {
    text += ", " + file->second + ":" + std::to_string(finding.where.source_line);
  }
  return text;
}

// What hardware allows in each direction.
std::string TooLarge(const char* what, const Dim3& size, const Dim3& limit) {
  const auto text = [](const Dim3& d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  };
  if (size.x <= limit.x && size.y <= limit.y && size.z <= limit.z) return std::string();
  return "a " + std::string(what) + " of " + text(size) + "; at most " + text(limit) +
         " are allowed";
}

std::string CheckLaunch(const Program& program, const Launch& launch) {
  const Entry& entry = *program.entry;
  std::string wrong = TooLarge("grid", launch.grid, {0x7fffffff, 65535, 65535});
  if (wrong.empty()) wrong = TooLarge("block", launch.block, {1024, 1024, 64});
  if (wrong.empty()) wrong = TooLarge("cluster", launch.cluster, {16, 16, 16});
  if (!wrong.empty()) return wrong;
  const uint64_t threads = launch.block.Count();
  if (threads == 0 || threads > 1024) {
    return "a block of " + std::to_string(threads) + " threads; 1 to 1024 are allowed";
  }
  if (entry.threads[0] != 0 &&
      (entry.threads[0] != launch.block.x || entry.threads[1] != launch.block.y ||
       entry.threads[2] != launch.block.z)) {
    return "the block is not the " + std::to_string(entry.threads[0]) +
           " threads that .reqntid asks for";
  }
  if (launch.grid.Count() == 0) return "an empty grid";
  if (launch.cluster.Count() == 0 || launch.cluster.Count() > 16 ||
      launch.grid.x % launch.cluster.x != 0 || launch.grid.y % launch.cluster.y != 0 ||
      launch.grid.z % launch.cluster.z != 0) {
    return "clusters that do not divide the grid, or of more than 16 CTAs";
  }
  if (launch.parameters.size() < entry.parameter_bytes) {
    return std::to_string(launch.parameters.size()) + " bytes of parameters; the entry has " +
           std::to_string(entry.parameter_bytes);
  }
  if (kSharedBase + program.static_shared_bytes + uint64_t{launch.dynamic_shared_bytes} >
      kSharedBytes) {
    return "more shared memory than a CTA may have";
  }
  return std::string();
}

}  // namespace

Kernel LoadKernel(std::string_view ptx, std::string_view entry) {
  Kernel kernel;
  try {
    kernel.program = Decode(ptx, entry);
  } catch (const SyntaxError& error) {
    kernel.error = error.what;
  } catch (const std::exception& error) {
    kernel.error = error.what();
  }
  return kernel;
}

namespace {

// Ends the trace of a run, however it ends.
class Traced {
 public:
  explicit Traced(const Machine& machine) : machine_(machine) {
    if (trace() != nullptr) trace()->BeginRun(machine_);
  }
  ~Traced() {
    if (trace() != nullptr) trace()->EndRun(machine_);
  }

 private:
  Trace* trace() const { return machine_.options.trace; }
  const Machine& machine_;
};

}  // namespace

Report RunKernel(const Program& program, const Launch& launch, const Options& options) {
  Report report;
  report.error = CheckLaunch(program, launch);
  if (!report.error.empty()) return report;
  try {
    Machine machine(program, launch, options);
    const Traced traced(machine);
    machine.Run();
    report.instructions = machine.executed;
    report.ok = true;
  } catch (const Finding& finding) {
    report.error = Describe(finding, program);
  } catch (const std::exception& error) {
    report.error = error.what();
  }
  return report;
}

}  // namespace jax_fa4::emulator
