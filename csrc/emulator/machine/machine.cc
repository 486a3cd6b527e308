#include "emulator/machine/machine.h"

#include <algorithm>
#include <utility>

#include "emulator/machine/hex.h"

namespace jax_fa4::emulator {
namespace {

constexpr int kMaxSlice = 64;  // instructions of one warp between two choices of the scheduler

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

}  // namespace jax_fa4::emulator
