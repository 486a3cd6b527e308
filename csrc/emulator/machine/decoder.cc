#include "emulator/machine/decoder.h"

#include <algorithm>
#include <set>

#include "emulator/ptx/parser.h"

namespace jax_fa4::emulator {
namespace {

const InstructionTable& Instructions() {
  static const InstructionTable* const table = [] {
    auto* made = new InstructionTable;  // lives as long as the process
    for (auto* chapter :
         {RegisterInteger,  RegisterLogic,         RegisterBits,      RegisterFloat,
          RegisterSpecial,  RegisterConvert,       RegisterMove,      RegisterCompare,
          RegisterControl,  RegisterMemory,        RegisterAtomic,    RegisterShuffle,
          RegisterBarrier,  RegisterMbarrier,      RegisterBulk,      RegisterWgmma,
          RegisterStmatrix, RegisterLdmatrix,      RegisterMma,       RegisterCluster,
          RegisterTcgen05,  RegisterClusterLaunch, RegisterSetmaxnreg}) {
      chapter(made);
    }
    return made;
  }();
  return *table;
}

constexpr uint64_t kMaxSharedBytes = 1u << 24;
constexpr uint64_t kMaxLocalBytes = 512u << 10;  // of a thread

}  // namespace

// The registers that were asked for since the last call. Those of 32 bits that a product reads are
// the fragments of A.
OpRegisters::Kind KindOf(std::string_view name) {
  static const std::set<std::string_view> kArithmetic = {
      "abs", "add", "and", "cvt", "ex2", "fma", "lg2", "mad",  "max", "min", "mul",
      "neg", "not", "or",  "rcp", "shl", "shr", "sub", "tanh", "xor", "lop3"};
  if (name == "mov") return OpRegisters::kCopy;
  if (name == "selp") return OpRegisters::kSelect;
  if (name == "shfl") return OpRegisters::kExchange;
  return kArithmetic.count(name) != 0 ? OpRegisters::kArithmetic : OpRegisters::kOrdinary;
}

OpRegisters Decoder::TakeRegisters(const Instruction& instruction) {
  OpRegisters taken;
  const std::string& name = instruction.opcode[0];
  taken.kind = KindOf(name);
  if (name == "wgmma" && instruction.opcode[1] == "mma_async") {
    taken.kind = OpRegisters::kProduct;
    const auto plain = std::stable_partition(reads_.begin(), reads_.end(), [this](uint32_t number) {
      const std::string& type =
          program_->entry->registers.at(program_->register_names[number]).type;
      return type == "pred" || LaneBytes(type) != 4;
    });
    taken.plain_reads = static_cast<uint16_t>(plain - reads_.begin());
  }
  taken.first = static_cast<uint32_t>(program_->registers.size());
  taken.reads = static_cast<uint16_t>(reads_.size());
  taken.writes = static_cast<uint16_t>(writes_.size());
  program_->registers.insert(program_->registers.end(), reads_.begin(), reads_.end());
  program_->registers.insert(program_->registers.end(), writes_.begin(), writes_.end());
  reads_.clear();
  writes_.clear();
  return taken;
}

// Parameters lie at their offsets, shared variables from kSharedBase on, static before dynamic.
void Decoder::PlaceVariables() {
  for (const Parameter& parameter : program_->entry->parameters) {
    symbols_[parameter.name] = parameter.offset;
  }
  uint64_t shared = kSharedBase;
  const auto place = [&](const std::string& name, const Variable& variable) {
    const bool is_shared = variable.space == "shared";
    uint64_t& next = is_shared ? shared : symbols_["%local"];
    next = (next + variable.align - 1) / variable.align * variable.align;
    if (next + variable.size > (is_shared ? kMaxSharedBytes : kMaxLocalBytes)) {
      throw SyntaxError{
          "variable " + name + " is larger than any memory of a " + (is_shared ? "CTA" : "thread"),
          Location()};
    }
    symbols_[name] = next;
    if (variable.space == "shared") shared_symbols_.insert(name);
    next += variable.size;
  };
  std::map<std::string, Variable> all(program_->module.variables.begin(),
                                      program_->module.variables.end());
  for (const auto& [name, variable] : program_->entry->variables) all[name] = variable;
  for (const auto& [name, variable] : all) {
    if (variable.size != 0) place(name, variable);
  }
  for (const auto& [name, variable] : all) {
    if (variable.size == 0) place(name, variable);
  }
  program_->static_shared_bytes = static_cast<uint32_t>(shared - kSharedBase);
  program_->local_bytes = static_cast<uint32_t>(symbols_["%local"]);
}

void Decoder::Run() {
  PlaceVariables();
  const InstructionTable& table = Instructions();
  program_->ops.reserve(program_->entry->instructions.size());
  for (const Instruction& instruction : program_->entry->instructions) {
    const auto found = table.find(instruction.opcode[0]);
    if (found == table.end()) Fail(instruction, "unknown instruction");
    Op op;
    op.source = &instruction;
    if (!instruction.guard.empty()) {
      Operand guard;
      guard.kind = OperandKind::kRegister;
      guard.name = instruction.guard;
      guard.where = instruction.where;
      op.guard = PredicateSource(guard);
      op.guard_negated = instruction.guard_negated;
    }
    found->second(*this, instruction, &op);
    program_->ops.push_back(op);
    program_->op_registers.push_back(TakeRegisters(instruction));
  }
  if (program_->ops.empty()) throw SyntaxError{"an entry without instructions", Location()};
}

namespace {
const Entry* FindEntry(const Module& module, std::string_view name) {
  if (name.empty() && module.entries.size() != 1) {
    throw SyntaxError{"a module with one entry is expected; this one has " +
                          std::to_string(module.entries.size()),
                      Location()};
  }
  for (const Entry& entry : module.entries) {
    if (name.empty() || entry.name == name) return &entry;
  }
  throw SyntaxError{"the module has no entry '" + std::string(name) + "'", Location()};
}
}  // namespace

std::unique_ptr<const Program> Decode(std::string_view ptx, std::string_view entry) {
  auto program = std::make_unique<Program>();
  program->module = Parse(ptx);
  program->entry = FindEntry(program->module, entry);
  Decoder(ptx, program.get()).Run();
  return program;
}

}  // namespace jax_fa4::emulator
