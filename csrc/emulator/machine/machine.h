// The state of a running grid: clusters of CTAs, warps, and what flies between them.
#pragma once

#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <unordered_map>
#include <vector>

#include "emulator/check/finding.h"
#include "emulator/check/races.h"
#include "emulator/check/registers.h"
#include "emulator/isa/special.h"
#include "emulator/machine/decoder.h"
#include "emulator/machine/program.h"
#include "emulator/machine/tensor_memory.h"
#include "emulator/trace/trace.h"

namespace jax_fa4::emulator {

inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr uint32_t kSharedBytes = 232448 + kSharedBase;  // 227 KiB, and the system's 1 KiB

struct Machine;
struct Cluster;
struct Cta;

struct Dim3 {
  uint32_t x = 1, y = 1, z = 1;
  uint64_t Count() const { return uint64_t{x} * y * z; }
};

// Host memory that the kernel may use as global memory.
struct GlobalRange {
  uint64_t begin = 0;
  uint64_t end = 0;
  bool writable = true;
  std::string name;
};

// When asynchronous operations take effect.
enum class Completion : uint8_t { kEarliest, kLatest, kRandom };

// How strictly ordering is judged; check/README.md has the differences.
enum class Level : uint8_t {
  kPtx,       // the text of the ISA
  kHardware,  // what working kernels rely on
};

struct Options {
  uint64_t seed = 0;
  Completion completion = Completion::kRandom;
  bool exact_tensor_cores = true;  // false: plain float32 sums
  // Null: ex2 and rcp are correctly rounded. Otherwise complete, and outliving the run.
  const SpecialTables* special_tables = nullptr;
  uint64_t max_instructions = 0;  // a warp; 0: no limit
  Level level = Level::kPtx;
  bool check_races = true;
  bool check_registers = true;
  Trace* trace = nullptr;  // null: nothing is recorded. Outlives the run.
};

struct Launch {
  Dim3 grid, block, cluster;
  uint32_t dynamic_shared_bytes = 0;
  std::vector<uint8_t> parameters;
  std::vector<GlobalRange> memory;
};

// Lanes of a warp that share a program counter.
struct LaneGroup {
  int32_t pc = 0;
  uint32_t mask = 0;
  bool waiting = false;
  uint64_t seen_version = 0;  // of the machine, when it last failed to go on
};

// A thread's bulk copies: the open group, and committed groups by how far they are.
struct BulkGroups {
  uint32_t open = 0;                              // operations since the last commit
  std::deque<std::array<uint32_t, 2>> committed;  // still to be read from, still to complete
  uint64_t first_group = 0;                       // number of committed.front()
};

struct Warp {
  Machine* machine = nullptr;
  Cta* cta = nullptr;
  int index = 0;
  std::unique_ptr<uint8_t[]> frame;
  std::unique_ptr<uint8_t, decltype(&std::free)> local{nullptr, &std::free};  // isa/local.cc
  uint32_t exec = 0;  // lanes for which the current instruction acts
  uint32_t alive = 0;
  std::vector<LaneGroup> groups;
  size_t current = 0;  // the running group
  std::string wait_reason;
  std::map<int, BulkGroups> bulk;    // by lane
  std::map<int, BulkGroups> copies;  // by lane, of cp.async
  uint32_t wgmma_open = 0;
  uint32_t wgmma_groups = 0;                           // committed so far
  std::unordered_map<uint32_t, uint64_t> phases_seen;  // of its CTA's mbarriers, by address
  std::deque<uint32_t> wgmma_committed;         // unfinished operations of each committed group
  std::unique_ptr<RegisterChecker> registers;   // null: not checked
  std::vector<uint32_t> register_counts;        // of its setmaxnreg
  uint32_t tensor_stores = 0;                   // tcgen05.st under way
  std::array<uint32_t, 32> cluster_arrivals{};  // phase in which a lane arrived; 0: not
  uint64_t executed = 0;
  bool timed_out = false;  // a try_wait may give up now

  template <typename T>
  T* Lanes(Slot slot) {
    return reinterpret_cast<T*>(frame.get() + slot);
  }
  uint32_t& Predicate(Slot slot) { return *Lanes<uint32_t>(slot); }
  LaneGroup& group() { return groups[current]; }
  const Op& op() const;
  // Stops the run with a finding about this warp's current instruction.
  [[noreturn]] void Report(const std::string& kind, const std::string& what, int lane = -1) const;
  // The handler returns this when it must be tried again; `reason` is for the deadlock's table.
  Step Wait(std::string reason) {
    wait_reason = std::move(reason);
    return Step::kWait;
  }
  // Tells the trace what the current instruction is about; trace.h has what the numbers mean.
  void Note(uint64_t object, uint64_t phase, uint64_t amount) const;
};

struct NamedBarrier {
  uint32_t expected = 0;  // threads; 0 while nobody has arrived
  uint32_t arrived = 0;
  uint64_t generation = 0;
  std::map<int, uint64_t> waiting;  // warp -> generation it waits for the end of
  ProxyClocks arriving, completed;  // what arrivals released, and up to the last generation
};

struct Mbarrier {
  uint64_t phase = 0;
  uint64_t observed = 0;  // phases that some wait has seen the end of
  int64_t pending = 0;
  int64_t expected = 0;
  int64_t transactions = 0;
  uint64_t initialised_by = 0;      // Machine::executed at the time
  ProxyClocks arriving, completed;  // what arrivals released, and up to the last phase
};

struct Cta {
  Cluster* cluster = nullptr;
  uint32_t rank = 0;  // in the cluster
  uint64_t linear = 0;
  Dim3 id;
  std::vector<uint8_t> shared;              // from address 0
  std::vector<uint8_t> shared_initialised;  // a byte each
  uint32_t shared_end = 0;                  // one past the last byte that belongs to the kernel
  std::array<NamedBarrier, 16> barriers;
  std::map<uint32_t, Mbarrier> mbarriers;
  TensorMemory tensor;
  int64_t register_pool = 0;   // what setmaxnreg.dec gave back
  bool cancel_failed = false;  // a try_cancel was seen to find no cluster
  std::vector<std::unique_ptr<Warp>> warps;
  bool Exited() const;  // every warp of it
};

// An asynchronous operation under way. Those of one queue take effect in order.
struct Event {
  uint64_t queue = 0;
  bool follows = false;  // from an operation that is over
  std::function<void()> complete;
};

struct Cluster {
  Machine* machine = nullptr;
  Dim3 id;
  std::vector<std::unique_ptr<Cta>> ctas;
  std::vector<Event> events;
  uint32_t barrier_phase = 1;       // of barrier.cluster
  ProxyClocks arriving, completed;  // what its arrivals released, and up to the last phase
};

struct Machine {
  Machine(const Program& program, const Launch& launch, const Options& options);

  // Runs the whole grid. Throws Finding.
  void Run();

  const Program& program;
  const Launch& launch;
  const Options options;
  std::mt19937_64 random;
  uint64_t version = 1;  // grows with every change that may let somebody go on
  uint64_t next_queue = 1;
  uint64_t executed = 0;
  int cta_group = 0;                    // of its tcgen05 instructions; 0: none yet
  Cluster cluster;                      // the running one
  std::unique_ptr<RaceDetector> races;  // null: not checked

  // Starts `complete` as an asynchronous operation in `queue`.
  void Start(uint64_t queue, std::function<void()> complete);
  // What the end of an operation brings about: at level ptx by itself, ordered with nothing.
  void Follow(std::function<void()> complete);
  // A queue of its own, for an operation that is ordered with nothing.
  uint64_t NewQueue() { return (next_queue++ << 1) | 1; }

  // What a request to cancel a cluster that has not started finds: the next one, or what other
  // multiprocessors leave, or nothing. False: nothing.
  bool CancelCluster(Dim3* id);

  // ---- memory; all report out-of-bounds and misaligned accesses
  // `size` bytes at a global address.
  uint8_t* Global(const Warp& warp, int lane, uint64_t address, uint32_t size, bool write);
  // Whether the range of the last call may be written.
  bool LastGlobalIsWritable() const { return launch.memory[last_range_].writable; }
  // Whether `size` bytes at `address` lie in that range.
  bool LastGlobalHolds(uint64_t address, uint64_t size) const {
    const GlobalRange& range = launch.memory[last_range_];
    return address >= range.begin && address <= range.end && size <= range.end - address;
  }
  // `size` bytes of shared memory at shared::cluster address `address`.
  uint8_t* Shared(const Warp& warp, int lane, uint64_t address, uint32_t size, bool write);
  // The CTA that a shared::cluster address lies in.
  Cta& CtaOf(const Warp& warp, int lane, uint64_t address);

 private:
  uint64_t Clusters() const { return launch.grid.Count() / launch.cluster.Count(); }
  Dim3 ClusterId(uint64_t index) const;
  // The next cluster to start, in the order of the grid; false if none is left.
  bool NextCluster(Dim3* id);
  void MakeCluster(Dim3 id);
  std::unique_ptr<Warp> MakeWarp(Cta* cta, int index);
  uint32_t SpecialValue(Special special, const Cta& cta, int warp, int lane) const;
  void RunCluster();
  void RunSlice(Warp* warp, int budget);
  bool CompleteOne(bool any);
  size_t ChooseAwaited();
  bool Runnable(const Warp& warp) const;
  bool LetTryWaitsTimeOut();
  [[noreturn]] void ReportDeadlock();
  void CheckTransactionsCame();
  void CheckBarriersAreWhole();
  void StepWarp(Warp* warp);
  static void ChooseGroup(Warp* warp);
  size_t last_range_ = 0;
  int timeout_rounds_ = 0;  // of try_waits, since anything else happened
  uint64_t version_after_timeouts_ = 0;
  uint64_t clusters_taken_ = 0;          // the first so many: started, cancelled or passed over
  std::deque<uint64_t> passed_over_;     // by requests to cancel: these start later, in order
  std::mt19937_64 cancellation_random_;  // of its own: requests change nothing else of a schedule
};

inline void Warp::Note(uint64_t object, uint64_t phase, uint64_t amount) const {
  Trace* trace = machine->options.trace;
  if (trace != nullptr) trace->Note(object, phase, amount);
}

// Sends the running group's lanes in `taken` to `target`, the others on to the next instruction.
void Branch(Warp& warp, uint32_t taken, int32_t target);

// Applies `body(lane)` to every lane that acts.
template <typename Body>
inline void ForLanes(uint32_t mask, Body body) {
  if (mask == kAllLanes) {
    for (int lane = 0; lane < 32; ++lane) body(lane);
  } else {
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) body(__builtin_ctz(rest));
  }
}

}  // namespace jax_fa4::emulator
