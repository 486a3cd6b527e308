#include "emulator/machine/decoder.h"

#include <algorithm>
#include <set>

#include "emulator/ptx/lexer.h"
#include "emulator/ptx/parser.h"

namespace jax_fa4::emulator {
namespace {

const InstructionTable& Instructions() {
  static const InstructionTable* const table = [] {
    auto* made = new InstructionTable;  // lives as long as the process
    for (auto* chapter :
         {RegisterInteger,  RegisterBits,    RegisterFloat,         RegisterSpecial,
          RegisterConvert,  RegisterMove,    RegisterCompare,       RegisterControl,
          RegisterMemory,   RegisterAtomic,  RegisterShuffle,       RegisterBarrier,
          RegisterMbarrier, RegisterBulk,    RegisterWgmma,         RegisterStmatrix,
          RegisterCluster,  RegisterTcgen05, RegisterClusterLaunch, RegisterSetmaxnreg}) {
      chapter(made);
    }
    return made;
  }();
  return *table;
}

constexpr uint64_t kMaxSharedBytes = 1u << 24;
constexpr uint64_t kMaxLocalBytes = 512u << 10;  // of a thread

struct NamedSpecial {
  std::string_view name;
  Special special;
};

constexpr uint32_t kMaxFrameBytes = 64u << 20;  // of a warp

constexpr NamedSpecial kSpecials[] = {
    {"%tid.x", Special::kTidX},
    {"%tid.y", Special::kTidY},
    {"%tid.z", Special::kTidZ},
    {"%ntid.x", Special::kNtidX},
    {"%ntid.y", Special::kNtidY},
    {"%ntid.z", Special::kNtidZ},
    {"%ctaid.x", Special::kCtaidX},
    {"%ctaid.y", Special::kCtaidY},
    {"%ctaid.z", Special::kCtaidZ},
    {"%nctaid.x", Special::kNctaidX},
    {"%nctaid.y", Special::kNctaidY},
    {"%nctaid.z", Special::kNctaidZ},
    {"%laneid", Special::kLaneid},
    {"%warpid", Special::kWarpid},
    {"%clusterid.x", Special::kClusteridX},
    {"%clusterid.y", Special::kClusteridY},
    {"%clusterid.z", Special::kClusteridZ},
    {"%nclusterid.x", Special::kNclusteridX},
    {"%nclusterid.y", Special::kNclusteridY},
    {"%nclusterid.z", Special::kNclusteridZ},
    {"%cluster_ctaid.x", Special::kClusterCtaidX},
    {"%cluster_ctaid.y", Special::kClusterCtaidY},
    {"%cluster_ctaid.z", Special::kClusterCtaidZ},
    {"%cluster_nctaid.x", Special::kClusterNctaidX},
    {"%cluster_nctaid.y", Special::kClusterNctaidY},
    {"%cluster_nctaid.z", Special::kClusterNctaidZ},
    {"%cluster_ctarank", Special::kClusterCtarank},
    {"%cluster_nctarank", Special::kClusterNctarank},
};

}  // namespace

int LaneBytes(std::string_view type) {
  const int bytes = MemoryBytes(type);
  return bytes == 0 ? 0 : std::max(bytes, 4);
}

int MemoryBytes(std::string_view type) {
  if (type == "b8" || type == "u8" || type == "s8") return 1;
  if (type == "b16" || type == "u16" || type == "s16" || type == "f16" || type == "bf16") return 2;
  if (type == "b32" || type == "u32" || type == "s32" || type == "f32" || type == "f16x2" ||
      type == "bf16x2") {
    return 4;
  }
  if (type == "b64" || type == "u64" || type == "s64" || type == "f64" || type == "f32x2") return 8;
  if (type == "b128") return 16;
  return 0;
}

// ---- modifiers

Modifiers::Modifiers(const Decoder& decoder, const Instruction& instruction)
    : decoder_(decoder), instruction_(instruction) {}

std::string_view Modifiers::Peek() const {
  return next_ < instruction_.opcode.size() ? std::string_view(instruction_.opcode[next_])
                                            : std::string_view();
}

std::string_view Modifiers::Next() {
  const std::string_view word = Peek();
  if (!word.empty()) ++next_;
  return word;
}

bool Modifiers::Take(std::string_view word) {
  if (Peek() != word) return false;
  ++next_;
  return true;
}

std::string_view Modifiers::OneOf(std::initializer_list<std::string_view> words) {
  for (std::string_view word : words) {
    if (Take(word)) return word;
  }
  std::string choices;
  for (std::string_view word : words)
    choices += (choices.empty() ? "." : ", .") + std::string(word);
  decoder_.Fail(instruction_, Peek().empty() ? "one of " + choices + " is missing"
                                             : "modifier '." + std::string(Peek()) +
                                                   "' where one of " + choices + " is expected");
}

void Modifiers::Done() const {
  if (!Peek().empty()) {
    decoder_.Fail(instruction_, "modifier '." + std::string(Peek()) + "' is not supported here");
  }
}

// ---- decoder

void Decoder::Fail(const Instruction& instruction, const std::string& message) const {
  throw ErrorAt(source_, instruction.where, instruction.text + ": " + message);
}

void Decoder::Fail(const Operand& operand, const std::string& message) const {
  throw ErrorAt(source_, operand.where, message);
}

void Decoder::ExpectOperands(const Instruction& instruction, size_t count) const {
  if (instruction.operands.size() != count) {
    Fail(instruction, std::to_string(instruction.operands.size()) + " operands where " +
                          std::to_string(count) + " are expected");
  }
}

Slot Decoder::Allocate(uint32_t bytes) {
  const Slot slot = (program_->frame_bytes + 63u) & ~63u;
  if (slot + bytes > kMaxFrameBytes) {
    throw SyntaxError{"a kernel with more registers than the emulator has room for", Location()};
  }
  program_->frame_bytes = slot + bytes;
  return slot;
}

Slot Decoder::Scratch(int bytes) { return Allocate(bytes == 0 ? 4 : 32 * bytes); }

Slot Decoder::ConstantSlot(uint64_t value, int bytes, bool is_shared_address) {
  const auto key = std::make_tuple(value, bytes, is_shared_address);
  const auto found = constants_.find(key);
  if (found != constants_.end()) return found->second;
  const Slot slot = Scratch(bytes);
  constants_[key] = slot;
  program_->constants.push_back({slot, static_cast<uint8_t>(bytes), value, is_shared_address});
  return slot;
}

std::string_view Decoder::TypeOf(const Operand& operand) const {
  const auto found = program_->entry->registers.find(operand.name);
  return found == program_->entry->registers.end() ? std::string_view()
                                                   : std::string_view(found->second.type);
}

Slot Decoder::SpecialRegister(const Operand& operand, int bytes) {
  for (const NamedSpecial& special : kSpecials) {
    if (special.name != operand.name) continue;
    if (bytes != 4) Fail(operand, operand.name + " is a 32-bit register");
    const auto found = specials_.find(operand.name);
    if (found != specials_.end()) return found->second;
    const Slot slot = Scratch(4);
    specials_[operand.name] = slot;
    program_->specials.push_back({slot, special.special});
    return slot;
  }
  Fail(operand, "unknown register " + operand.name);
}

Slot Decoder::RegisterSlot(const Operand& operand, int bytes, bool writes) {
  const std::string_view type = TypeOf(operand);
  if (type.empty()) return SpecialRegister(operand, bytes);
  if (type == "pred" ? bytes != 0 : LaneBytes(type) != bytes) {
    Fail(operand, "register " + operand.name + " of type ." + std::string(type) +
                      " is of another size than the instruction asks for");
  }
  auto found = registers_.find(operand.name);
  if (found == registers_.end()) {
    found = registers_.emplace(operand.name, Scratch(bytes)).first;
    numbers_[found->second] = static_cast<uint32_t>(program_->register_names.size());
    program_->register_names.push_back(operand.name);
  }
  (writes ? writes_ : reads_).push_back(numbers_[found->second]);
  return found->second;
}

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

Slot Decoder::Source(const Operand& operand, int bytes) {
  switch (operand.kind) {
    case OperandKind::kRegister:
      return RegisterSlot(operand, bytes, false);
    case OperandKind::kImmediate:
      return ConstantSlot(bytes == 4 ? operand.bits & 0xffffffffu : operand.bits, bytes);
    case OperandKind::kSymbol:
      return SymbolAddress(operand, bytes);
    default:
      Fail(operand, "a register or a number is expected here");
  }
}

Slot Decoder::Destination(const Operand& operand, int bytes) {
  if (operand.kind == OperandKind::kSink) return Scratch(bytes);
  if (operand.kind != OperandKind::kRegister || TypeOf(operand).empty()) {
    Fail(operand, "a register is expected here");
  }
  return RegisterSlot(operand, bytes, true);
}

Slot Decoder::PredicateSource(const Operand& operand) {
  if (operand.kind == OperandKind::kImmediate) {
    return ConstantSlot(operand.bits != 0 ? 0xffffffffu : 0u, 0);
  }
  if (operand.kind != OperandKind::kRegister) Fail(operand, "a predicate is expected here");
  return RegisterSlot(operand, 0, false);
}

Slot Decoder::PredicateDestination(const Operand& operand) {
  if (operand.kind == OperandKind::kSink) return Scratch(0);
  if (operand.kind != OperandKind::kRegister) Fail(operand, "a predicate is expected here");
  return RegisterSlot(operand, 0, true);
}

Slot Decoder::PredicateNamed(const std::string& name, const Operand& at) {
  Operand operand = at;
  operand.kind = OperandKind::kRegister;
  operand.name = name;
  return PredicateDestination(operand);
}

uint32_t Decoder::Elements(const Operand& operand, int bytes, bool destination, Op* op) {
  const auto add = [&](const Operand& element) {
    program_->slots.push_back(destination ? Destination(element, bytes) : Source(element, bytes));
  };
  op->first = static_cast<uint32_t>(program_->slots.size());
  if (operand.kind == OperandKind::kVector) {
    for (const Operand& element : operand.elements) add(element);
  } else {
    add(operand);
  }
  op->count = static_cast<uint32_t>(program_->slots.size()) - op->first;
  return op->count;
}

uint64_t Decoder::SymbolValue(const Operand& operand) const {
  const auto found = symbols_.find(operand.name);
  if (found == symbols_.end()) Fail(operand, "unknown name " + operand.name);
  return found->second;
}

Slot Decoder::SymbolAddress(const Operand& operand, int bytes) {
  return ConstantSlot(SymbolValue(operand), bytes, shared_symbols_.count(operand.name) != 0);
}

void Decoder::Address(const Operand& operand, int bytes, Op* op) {
  if (operand.kind != OperandKind::kAddress) Fail(operand, "an address in brackets is expected");
  op->immediate = operand.offset;
  op->small = bytes == 8 ? 8 : 4;
  Operand base = operand;
  if (operand.negated || symbols_.count(operand.name) != 0) {  // an absolute address, or a name
    op->a = operand.negated ? ConstantSlot(0, op->small) : SymbolAddress(operand, op->small);
    return;
  }
  base.kind = OperandKind::kRegister;
  const std::string_view type = TypeOf(base);
  if (type.empty()) Fail(operand, "unknown name " + operand.name);
  // Shared addresses may stand in registers of 32 or of 64 bits.
  op->small = static_cast<uint8_t>(LaneBytes(type));
  if (bytes == 8 && op->small != 8) Fail(operand, "a 64-bit address is expected here");
  op->a = RegisterSlot(base, op->small, false);
}

int32_t Decoder::Target(const Operand& operand) const {
  const auto found = program_->entry->labels.find(operand.name);
  if (operand.kind != OperandKind::kLabel || found == program_->entry->labels.end()) {
    Fail(operand, "a label is expected here");
  }
  return static_cast<int32_t>(found->second);
}

uint64_t Decoder::Immediate(const Operand& operand) const {
  if (!IsImmediate(operand)) Fail(operand, "a number is expected here");
  return operand.bits;
}

int64_t Decoder::SmallImmediate(const Operand& operand) const {
  const uint64_t value = Immediate(operand);
  if (value > 65535) Fail(operand, "a number from 0 to 65535 is expected here");
  return static_cast<int64_t>(value);
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
