// Operands of instructions: registers, constants and addresses, each with a place in the frame.
#include "emulator/machine/decoder.h"
#include "emulator/ptx/lexer.h"

namespace jax_fa4::emulator {
namespace {

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

}  // namespace jax_fa4::emulator
