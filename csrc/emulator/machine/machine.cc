#include "emulator/machine/machine.h"

#include <algorithm>
#include <utility>

namespace jax_fa4::emulator {
namespace {

constexpr int kMaxSlice = 64;  // instructions of one warp between two choices of the scheduler

void Fill(Warp* warp, const Constant& constant) {
  uint64_t value = constant.value;
  if (constant.is_shared_address) value += uint64_t{warp->cta->rank} << 24;
  uint8_t* lanes = warp->frame.get() + constant.slot;
  if (constant.lane_bytes == 0) {
    const uint32_t mask = static_cast<uint32_t>(value);
    std::memcpy(lanes, &mask, 4);
    return;
  }
  for (int lane = 0; lane < 32; ++lane) {
    std::memset(lanes + lane * constant.lane_bytes, 0, constant.lane_bytes);
    std::memcpy(lanes + lane * constant.lane_bytes, &value,
                std::min<int>(constant.lane_bytes, sizeof(value)));
  }
}

std::string Hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace

bool Cta::Exited() const {
  return std::all_of(warps.begin(), warps.end(),
                     [](const std::unique_ptr<Warp>& warp) { return warp->alive == 0; });
}

const Op& Warp::op() const { return machine->program.ops[groups[current].pc]; }

void Warp::Report(const std::string& kind, const std::string& what, int lane) const {
  // Something that completes late may have a word to say about a warp that is gone.
  const Instruction& instruction =
      groups.empty() ? machine->program.entry->instructions.back() : *op().source;
  throw Finding{
      kind, what, static_cast<int>(cta->linear), index, lane, instruction.where, instruction.text};
}

Machine::Machine(const Program& program, const Launch& launch, const Options& options)
    : program(program),
      launch(launch),
      options(options),
      random(options.seed),
      cancellation_random_(options.seed) {
  if (options.check_races) races = std::make_unique<RaceDetector>(this);
}

void Machine::Start(uint64_t queue, std::function<void()> complete) {
  if (options.trace != nullptr) complete = options.trace->Watch(std::move(complete));
  if (options.completion == Completion::kEarliest) {
    complete();
    ++version;
  } else {
    cluster.events.push_back({queue, false, std::move(complete)});
  }
}

void Machine::Follow(std::function<void()> complete) {
  if (options.completion == Completion::kEarliest || options.level != Level::kPtx) {
    complete();
  } else {
    cluster.events.push_back({NewQueue(), true, std::move(complete)});
  }
}

// ---- making clusters

uint32_t Machine::SpecialValue(Special special, const Cta& cta, int warp, int lane) const {
  const uint32_t thread = static_cast<uint32_t>(warp) * 32 + static_cast<uint32_t>(lane);
  const Dim3& block = launch.block;
  const Dim3& size = launch.cluster;
  switch (special) {
    case Special::kTidX:
      return thread % block.x;
    case Special::kTidY:
      return thread / block.x % block.y;
    case Special::kTidZ:
      return thread / block.x / block.y;
    case Special::kNtidX:
      return block.x;
    case Special::kNtidY:
      return block.y;
    case Special::kNtidZ:
      return block.z;
    case Special::kCtaidX:
      return cta.id.x;
    case Special::kCtaidY:
      return cta.id.y;
    case Special::kCtaidZ:
      return cta.id.z;
    case Special::kNctaidX:
      return launch.grid.x;
    case Special::kNctaidY:
      return launch.grid.y;
    case Special::kNctaidZ:
      return launch.grid.z;
    case Special::kLaneid:
      return static_cast<uint32_t>(lane);
    case Special::kWarpid:
      return static_cast<uint32_t>(warp);
    case Special::kClusteridX:
      return cluster.id.x;
    case Special::kClusteridY:
      return cluster.id.y;
    case Special::kClusteridZ:
      return cluster.id.z;
    case Special::kNclusteridX:
      return launch.grid.x / size.x;
    case Special::kNclusteridY:
      return launch.grid.y / size.y;
    case Special::kNclusteridZ:
      return launch.grid.z / size.z;
    case Special::kClusterCtaidX:
      return cta.id.x % size.x;
    case Special::kClusterCtaidY:
      return cta.id.y % size.y;
    case Special::kClusterCtaidZ:
      return cta.id.z % size.z;
    case Special::kClusterNctaidX:
      return size.x;
    case Special::kClusterNctaidY:
      return size.y;
    case Special::kClusterNctaidZ:
      return size.z;
    case Special::kClusterCtarank:
      return cta.rank;
    case Special::kClusterNctarank:
      return static_cast<uint32_t>(size.Count());
  }
  return 0;
}

std::unique_ptr<Warp> Machine::MakeWarp(Cta* cta, int index) {
  auto warp = std::make_unique<Warp>();
  warp->machine = this;
  warp->cta = cta;
  warp->index = index;
  warp->frame.reset(new uint8_t[program.frame_bytes + 64]());
  const uint64_t threads = launch.block.Count();
  const uint64_t here = std::min<uint64_t>(32, threads - static_cast<uint64_t>(index) * 32);
  warp->alive = here == 32 ? kAllLanes : (1u << here) - 1;
  warp->groups.push_back({0, warp->alive, false, 0});
  if (options.check_registers) warp->registers = std::make_unique<RegisterChecker>(program);
  for (const Constant& constant : program.constants) Fill(warp.get(), constant);
  for (const SpecialSlot& special : program.specials) {
    for (int lane = 0; lane < 32; ++lane) {
      warp->Lanes<uint32_t>(special.slot)[lane] = SpecialValue(special.special, *cta, index, lane);
    }
  }
  return warp;
}

void Machine::MakeCluster(Dim3 id) {
  cluster = Cluster();
  cluster.machine = this;
  cluster.id = id;
  const Dim3& size = launch.cluster;
  const int warps = static_cast<int>((launch.block.Count() + 31) / 32);
  for (uint32_t rank = 0; rank < size.Count(); ++rank) {
    auto cta = std::make_unique<Cta>();
    cta->cluster = &cluster;
    cta->rank = rank;
    cta->id = {id.x * size.x + rank % size.x, id.y * size.y + rank / size.x % size.y,
               id.z * size.z + rank / size.x / size.y};
    cta->linear =
        cta->id.x + uint64_t{launch.grid.x} * (cta->id.y + uint64_t{launch.grid.y} * cta->id.z);
    cta->shared_end = kSharedBase + program.static_shared_bytes + launch.dynamic_shared_bytes;
    cta->shared.assign(cta->shared_end, 0xff);  // NaN in every float type
    cta->shared_initialised.assign(cta->shared_end, 0);
    for (int warp = 0; warp < warps; ++warp) cta->warps.push_back(MakeWarp(cta.get(), warp));
    cluster.ctas.push_back(std::move(cta));
  }
  if (races != nullptr) races->BeginCluster();
}

Dim3 Machine::ClusterId(uint64_t index) const {
  const uint32_t x = launch.grid.x / launch.cluster.x, y = launch.grid.y / launch.cluster.y;
  return {static_cast<uint32_t>(index % x), static_cast<uint32_t>(index / x % y),
          static_cast<uint32_t>(index / x / y)};
}

bool Machine::NextCluster(Dim3* id) {
  if (!passed_over_.empty()) {
    *id = ClusterId(passed_over_.front());
    passed_over_.pop_front();
    return true;
  }
  if (clusters_taken_ == Clusters()) return false;
  *id = ClusterId(clusters_taken_++);
  return true;
}

// Clusters run one after the other here. On a device others run beside, and take clusters, too; and
// a request may fail though some are left. So of four seeds one lets every request have the next
// cluster, as seed 0 does; one lets none have any; for two it is chance.
bool Machine::CancelCluster(Dim3* id) {
  constexpr uint64_t kGoldenRatio = 0x9e3779b97f4a7c15;  // times 2^64: spreads neighbouring seeds
  const uint64_t rule = options.seed * kGoldenRatio >> 62;
  if (rule == 1) return false;
  if (rule > 1) {
    if (cancellation_random_() % 4 == 0) return false;
    while (clusters_taken_ < Clusters() && cancellation_random_() % 4 == 0) {
      passed_over_.push_back(clusters_taken_++);
    }
  }
  if (clusters_taken_ == Clusters()) return false;
  *id = ClusterId(clusters_taken_++);
  return true;
}

void Machine::Run() {
  Dim3 id;
  while (NextCluster(&id)) {
    MakeCluster(id);
    RunCluster();
  }
}

// ---- scheduling

bool Machine::Runnable(const Warp& warp) const {
  for (const LaneGroup& group : warp.groups) {
    if (!group.waiting || group.seen_version != version) return true;
  }
  return false;
}

// Where all wait for events: the oldest operation, or at level ptx an arrival that follows from one
// that is over; by an odd seed the newest arrival, after all operations, so that some come last.
size_t Machine::ChooseAwaited() {
  std::vector<size_t> arrivals;
  size_t oldest = cluster.events.size();
  for (size_t i = 0; i < cluster.events.size(); ++i) {
    if (cluster.events[i].follows) {
      arrivals.push_back(i);
    } else if (oldest == cluster.events.size()) {
      oldest = i;
    }
  }
  const bool none = oldest == cluster.events.size();
  if (arrivals.empty()) return oldest;
  if (options.seed % 2 == 1) return none ? arrivals.back() : oldest;
  if (!none && random() % 2 == 0) return oldest;
  return arrivals[random() % arrivals.size()];
}

// Lets one asynchronous operation take effect: any that is first in its queue.
bool Machine::CompleteOne(bool any) {
  std::vector<Event>& events = cluster.events;
  if (events.empty() || (!any && random() % 4 != 0)) return false;
  size_t chosen = any ? ChooseAwaited() : random() % events.size();
  for (size_t i = 0; i < chosen; ++i) {
    if (events[i].queue == events[chosen].queue) {
      chosen = i;
      break;
    }
  }
  std::function<void()> complete = std::move(events[chosen].complete);
  events.erase(events.begin() + static_cast<std::ptrdiff_t>(chosen));
  complete();
  ++version;
  return true;
}

void Machine::RunCluster() {
  std::vector<Warp*> warps;
  for (auto& cta : cluster.ctas) {
    for (auto& warp : cta->warps) warps.push_back(warp.get());
  }
  std::vector<Warp*> runnable;
  while (true) {
    runnable.clear();
    bool alive = false;
    for (Warp* warp : warps) {
      if (warp->groups.empty()) continue;
      alive = true;
      if (Runnable(*warp)) runnable.push_back(warp);
    }
    if (!alive) break;
    if (options.completion == Completion::kRandom && CompleteOne(false)) continue;
    if (runnable.empty()) {
      if (CompleteOne(true) || LetTryWaitsTimeOut()) continue;
      ReportDeadlock();
    }
    RunSlice(runnable[random() % runnable.size()], 1 + static_cast<int>(random() % kMaxSlice));
  }
  while (CompleteOne(true)) {
  }
  if (options.level == Level::kPtx) {
    CheckTransactionsCame();
    CheckBarriersAreWhole();
  }
}

// Bytes that an mbarrier still expects, or got without expecting them: a phase that nobody waited
// for, or that would never have come.
void Machine::CheckTransactionsCame() {
  for (auto& cta : cluster.ctas) {
    for (const auto& [offset, barrier] : cta->mbarriers) {
      if (barrier.transactions == 0) continue;
      const Instruction& last = program.entry->instructions.back();
      throw Finding{"mbarrier",
                    "the CTA ends when the mbarrier at shared address " + std::to_string(offset) +
                        (barrier.transactions > 0
                             ? " still expects " + std::to_string(barrier.transactions) + " bytes"
                             : " has got " + std::to_string(-barrier.transactions) +
                                   " bytes that it does not expect"),
                    static_cast<int>(cta->linear),
                    -1,
                    -1,
                    last.where,
                    last.text};
    }
  }
}

// A barrier that ends in the middle of a generation: somebody arrived whom nobody waited for.
void Machine::CheckBarriersAreWhole() {
  for (auto& cta : cluster.ctas) {
    for (size_t id = 0; id < cta->barriers.size(); ++id) {
      const NamedBarrier& barrier = cta->barriers[id];
      if (barrier.arrived == 0) continue;
      const Instruction& last = program.entry->instructions.back();
      throw Finding{"barrier-count",
                    "the CTA ends when " + std::to_string(barrier.arrived) + " of " +
                        std::to_string(barrier.expected) + " threads have arrived at barrier " +
                        std::to_string(id),
                    static_cast<int>(cta->linear),
                    -1,
                    -1,
                    last.where,
                    last.text};
    }
  }
}

// Hardware may let a try_wait return false after a time; code that asks once, without a loop,
// relies on it. Code that asks in a loop would ask forever: after a few rounds in which nothing
// else happened, it is a deadlock.
bool Machine::LetTryWaitsTimeOut() {
  constexpr int kMostRounds = 8;
  timeout_rounds_ = version == version_after_timeouts_ ? timeout_rounds_ + 1 : 0;
  if (timeout_rounds_ == kMostRounds) return false;
  bool any = false;
  for (auto& cta : cluster.ctas) {
    for (auto& warp : cta->warps) {
      if (warp->groups.empty() || warp->timed_out) continue;
      if (warp->wait_reason.rfind("mbarrier.try_wait", 0) != 0) continue;
      warp->timed_out = any = true;
    }
  }
  if (any) version_after_timeouts_ = ++version;
  return any;
}

void Machine::ReportDeadlock() {
  std::string table = "no warp can go on and nothing is under way:";
  const Warp* first = nullptr;
  for (auto& cta : cluster.ctas) {
    for (auto& warp : cta->warps) {
      if (warp->groups.empty()) continue;
      if (first == nullptr) first = warp.get();
      const Instruction& instruction = *warp->op().source;
      table += "\n  CTA " + std::to_string(cta->linear) + " warp " + std::to_string(warp->index) +
               ": " + warp->wait_reason + ", PTX line " + std::to_string(instruction.where.line) +
               (instruction.where.source_line != 0
                    ? ", source line " + std::to_string(instruction.where.source_line)
                    : "");
    }
  }
  first->Report("deadlock", table);
}

// The runnable group that is furthest behind; groups at one place become one again.
void Machine::ChooseGroup(Warp* warp) {
  std::vector<LaneGroup>& groups = warp->groups;
  for (size_t i = 0; i < groups.size(); ++i) {
    for (size_t j = i + 1; j < groups.size();) {
      if (groups[i].pc == groups[j].pc) {
        groups[i].mask |= groups[j].mask;
        groups[i].waiting = false;
        groups.erase(groups.begin() + static_cast<std::ptrdiff_t>(j));
      } else {
        ++j;
      }
    }
  }
  const uint64_t version = warp->machine->version;
  size_t best = groups.size();
  for (size_t i = 0; i < groups.size(); ++i) {
    if (groups[i].waiting && groups[i].seen_version == version) continue;
    if (best == groups.size() || groups[i].pc < groups[best].pc) best = i;
  }
  warp->current = best == groups.size() ? 0 : best;
}

void Machine::RunSlice(Warp* warp, int budget) {
  while (budget-- > 0 && !warp->groups.empty()) {
    if (warp->groups.size() > 1) ChooseGroup(warp);
    LaneGroup& group = warp->group();
    if (group.waiting && group.seen_version == version) return;
    StepWarp(warp);
  }
}

void Machine::StepWarp(Warp* warp) {
  LaneGroup& group = warp->group();
  const Op& op = program.ops[group.pc];
  warp->exec = group.mask;
  if (op.guard != kNoSlot) {
    const uint32_t guard = warp->Predicate(op.guard);
    warp->exec &= op.guard_negated ? ~guard : guard;
    if (warp->exec == 0) {
      ++group.pc;
      return;
    }
  }
  if (op.converged && warp->exec != warp->alive) {
    // Lanes that went another way may still come here; until then this group waits for them.
    if (warp->groups.size() > 1 && op.guard == kNoSlot) {
      group.waiting = true;
      group.seen_version = version;
      warp->wait_reason = "waits for the warp's other lanes, which .aligned asks for";
      return;
    }
    warp->Report("divergent", "only lanes " + Hex(warp->exec) + " of " + Hex(warp->alive) +
                                  " execute an .aligned instruction");
  }
  ++executed;
  if (++warp->executed == options.max_instructions) {
    warp->Report("runaway", "the warp has executed " + std::to_string(options.max_instructions) +
                                " instructions, which is the limit");
  }
  if (warp->registers != nullptr) warp->registers->Check(*warp, program.op_registers[group.pc]);
  Trace* const trace = options.trace;
  if (trace != nullptr) trace->BeginStep(*warp);
  const Step step = op.run(*warp, op);
  if (trace != nullptr) trace->EndStep(step == Step::kWait);
  switch (step) {
    case Step::kNext:
      ++warp->group().pc;
      warp->group().waiting = false;
      warp->timed_out = false;
      break;
    case Step::kJump:
      break;
    case Step::kWait:
      warp->group().waiting = true;
      warp->group().seen_version = version;
      break;
    case Step::kExit:
      warp->alive &= ~warp->exec;
      warp->group().mask &= ~warp->exec;
      if (warp->group().mask == 0) {
        warp->groups.erase(warp->groups.begin() + static_cast<std::ptrdiff_t>(warp->current));
        warp->current = 0;
      } else {
        ++warp->group().pc;
      }
      ++version;
      break;
  }
}

void Branch(Warp& warp, uint32_t taken, int32_t target) {
  LaneGroup& group = warp.group();
  const uint32_t stay = group.mask & ~taken;
  if (stay == 0) {
    group.pc = target;
    return;
  }
  const int32_t next = group.pc + 1;
  group.mask = stay;
  group.pc = next;
  warp.groups.push_back({target, taken, false, 0});  // `group` may dangle from here on
}

// ---- memory

uint8_t* Machine::Global(const Warp& warp, int lane, uint64_t address, uint32_t size, bool write) {
  const auto holds = [&](const GlobalRange& range) {
    return address >= range.begin && address + size <= range.end && address + size >= address;
  };
  if (address % std::min<uint32_t>(size, 16) != 0 && (size & (size - 1)) == 0 && size <= 16) {
    warp.Report(
        "misaligned",
        Hex(address) + " in global memory is not aligned to " + std::to_string(size) + " bytes",
        lane);
  }
  if (last_range_ >= launch.memory.size() || !holds(launch.memory[last_range_])) {
    last_range_ = launch.memory.size();
    for (size_t i = 0; i < launch.memory.size(); ++i) {
      if (holds(launch.memory[i])) last_range_ = i;
    }
  }
  if (last_range_ == launch.memory.size()) {
    warp.Report(
        "out-of-bounds",
        std::to_string(size) + " bytes at " + Hex(address) + " lie in no buffer of the kernel",
        lane);
  }
  const GlobalRange& range = launch.memory[last_range_];
  if (write && !range.writable) {
    warp.Report("read-only", "a write to " + range.name + ", which is read-only", lane);
  }
  return reinterpret_cast<uint8_t*>(address);
}

Cta& Machine::CtaOf(const Warp& warp, int lane, uint64_t address) {
  const uint64_t rank = address >> 24;
  if (rank >= cluster.ctas.size()) {
    warp.Report("out-of-bounds",
                Hex(address) + " is an address of CTA " + std::to_string(rank) +
                    " in a cluster of " + std::to_string(cluster.ctas.size()),
                lane);
  }
  return *cluster.ctas[rank];
}

uint8_t* Machine::Shared(const Warp& warp, int lane, uint64_t address, uint32_t size, bool write) {
  Cta& cta = CtaOf(warp, lane, address);
  const uint64_t offset = address & 0xffffff;
  if (offset < kSharedBase || offset + size > cta.shared_end) {
    warp.Report("out-of-bounds",
                std::to_string(size) + " bytes at shared address " + Hex(offset) +
                    "; the CTA has " + Hex(kSharedBase) + " to " + Hex(cta.shared_end),
                lane);
  }
  if (size <= 16 && (size & (size - 1)) == 0 && offset % size != 0) {
    warp.Report(
        "misaligned",
        "shared address " + Hex(offset) + " is not aligned to " + std::to_string(size) + " bytes",
        lane);
  }
  uint8_t* initialised = cta.shared_initialised.data() + offset;
  if (write) {
    std::memset(initialised, 1, size);
  } else if (std::memchr(initialised, 0, size) != nullptr) {
    warp.Report("uninitialised",
                "a read of shared address " + Hex(offset) + ", which nothing has written", lane);
  }
  return cta.shared.data() + offset;
}

}  // namespace jax_fa4::emulator
