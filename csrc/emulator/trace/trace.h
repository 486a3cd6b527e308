// What a run did: how often each instruction ran, what waited for what, and what was under way.
//
// The machine models no time. Its clock here is the step: one instruction of one warp, in the
// scheduler's order. A model of time can replay each warp's events in their own order (`own`) and
// find, by object and phase, what an event had to wait for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <unordered_map>
#include <utility>
#include <vector>

namespace jax_fa4::emulator {

struct Machine;
struct Warp;
struct LaneGroup;

enum class EventKind : uint8_t {
  kDone,   // an instruction that synchronises or issues, and that had no reason to wait
  kWait,   // the same, after a wait from `begin` to `end`
  kAsync,  // an operation under way from `begin`, when it was issued, to `end`, when it completed
  kStuck,  // a wait, or an operation, that had not ended when the run did
};

// One record, 56 bytes, read as they are by jax_fa4/emulator/recording.py.
struct TraceEvent {
  uint64_t begin = 0, end = 0;  // steps
  uint64_t object = 0;  // shared::cluster address of an mbarrier, number of a named barrier, or of
                        // tcgen05.mma the address of D
  uint64_t amount = 0;  // bytes, multiplications, or arrivals
  uint64_t phase = 0;   // of the barrier, or the number of the group
  uint32_t cta = 0;     // in the grid
  uint32_t own = 0;     // instructions that the warp had done before
  uint32_t pc = 0;
  uint16_t warp = 0;
  EventKind kind = EventKind::kDone;
  uint8_t padding = 0;
};
static_assert(sizeof(TraceEvent) == 56);

// Where a warp's executed instructions do not follow each other: from its `own`-th on they are
// those from `pc`. A warp's jumps are its path; where lanes diverged, that of one group after the
// other.
struct TraceJump {
  uint32_t own = 0;
  uint32_t pc = 0;
  uint32_t cta = 0;
  uint32_t warp = 0;
  uint32_t lanes = 0;  // a bit each
};
static_assert(sizeof(TraceJump) == 20);

// Of one instruction and all warps of one index.
struct TraceCount {
  uint64_t warps = 0;   // times that a warp executed it
  uint64_t lanes = 0;   // and that a lane did
  uint64_t waits = 0;   // times that it had to wait
  uint64_t waited = 0;  // steps
  uint64_t amount = 0;  // bytes, multiplications, or arrivals
};

class Trace {
 public:
  // Events beyond the first `max_events` are only counted, jumps beyond as many not kept.
  explicit Trace(uint64_t max_events) : max_events_(max_events) {}

  // ---- for the machine
  void BeginRun(const Machine& machine);
  void BeginStep(const Warp& warp);
  // The instruction is done, or has to wait.
  void EndStep(bool waits);
  // An operation starts that what was noted since the last one is about; its completion is told.
  std::function<void()> Watch(std::function<void()> complete);
  void EndRun(const Machine& machine);

  // ---- for handlers: what the running instruction is about. The lanes of a warp that name the
  // same object make one event.
  void Note(uint64_t object, uint64_t phase, uint64_t amount);

  // ---- for readers
  const std::vector<TraceEvent>& events() const { return events_; }
  const std::vector<TraceJump>& jumps() const { return jumps_; }
  const std::vector<TraceCount>& counts() const { return counts_; }  // [warp][instruction]
  uint64_t dropped() const { return dropped_; }
  uint64_t steps() const { return steps_; }

 private:
  struct About {
    uint64_t object, phase, amount;
  };
  struct Stuck {
    uint64_t begin;
    About about;
  };
  TraceEvent Event(EventKind kind, const About& about, uint64_t begin) const;
  void Add(const TraceEvent& event);
  void Follow(uint32_t own);

  const uint64_t max_events_;
  const Machine* machine_ = nullptr;
  size_t ops_ = 0;
  std::vector<TraceEvent> events_;
  std::vector<TraceJump> jumps_;
  std::vector<TraceCount> counts_;
  uint64_t dropped_ = 0;
  uint64_t steps_ = 0;

  // The running instruction.
  const Warp* warp_ = nullptr;
  uint32_t pc_ = 0;
  uint32_t lanes_ = 0;  // a bit each
  std::vector<About> about_;
  std::unordered_map<const Warp*, uint32_t> own_;   // instructions done so far
  std::unordered_map<const Warp*, uint32_t> next_;  // what would follow the last one
  // Warps' instructions that wait.
  std::map<std::pair<const Warp*, uint32_t>, Stuck> waiting_;
};

}  // namespace jax_fa4::emulator
