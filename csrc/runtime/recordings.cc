#include "runtime/recordings.h"

#include <mutex>
#include <utility>

namespace jax_fa4 {
namespace {

struct Recordings {
  std::mutex mutex;
  bool on = false;
  uint64_t max_events = 0;
  std::vector<std::shared_ptr<const Recording>> done;
};

Recordings& Kept() {
  static Recordings* const recordings = new Recordings;  // lives as long as the process
  return *recordings;
}

}  // namespace

void StartRecording(uint64_t max_events) {
  Recordings& kept = Kept();
  std::lock_guard<std::mutex> lock(kept.mutex);
  kept.on = true;
  kept.max_events = max_events;
  kept.done.clear();
}

std::vector<std::shared_ptr<const Recording>> TakeRecordings() {
  Recordings& kept = Kept();
  std::lock_guard<std::mutex> lock(kept.mutex);
  kept.on = false;
  return std::exchange(kept.done, {});
}

emulator::Report RunRecorded(const std::string& name,
                             const std::shared_ptr<const emulator::Program>& program,
                             const emulator::Launch& launch, emulator::Options options) {
  Recordings& kept = Kept();
  std::shared_ptr<Recording> recording;
  {
    std::lock_guard<std::mutex> lock(kept.mutex);
    if (kept.on) {
      recording = std::make_shared<Recording>(Recording{name,
                                                        program,
                                                        launch.grid,
                                                        launch.block,
                                                        launch.cluster,
                                                        emulator::Trace(kept.max_events),
                                                        {}});
      options.trace = &recording->trace;
    }
  }
  emulator::Report report = emulator::RunKernel(*program, launch, options);
  if (recording == nullptr) return report;
  recording->report = report;
  std::lock_guard<std::mutex> lock(kept.mutex);
  if (kept.on) kept.done.push_back(std::move(recording));
  return report;
}

}  // namespace jax_fa4
