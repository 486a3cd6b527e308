// What the decoders of single instructions work with.
#pragma once

#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "emulator/machine/program.h"

namespace jax_fa4::emulator {

// First shared address of a CTA's variables; below it lies what the system keeps for itself.
inline constexpr uint32_t kSharedBase = 0x400;

// Generic addresses that are no host pointers: windows onto parameters, shared and local memory.
inline constexpr uint64_t kSharedWindow = uint64_t{0xa0} << 56;
inline constexpr uint64_t kParameterWindow = uint64_t{0xb0} << 56;
inline constexpr uint64_t kLocalWindow = uint64_t{0xc0} << 56;
inline constexpr uint64_t kWindowMask = uint64_t{0xff} << 56;

class Decoder;
using DecodeInstruction = void (*)(Decoder& decoder, const Instruction& instruction, Op* op);

// The instructions that the emulator knows, by the word before the first dot.
using InstructionTable = std::unordered_map<std::string, DecodeInstruction>;

// Takes an instruction's modifiers apart; what nobody took is an error.
class Modifiers {
 public:
  Modifiers(const Decoder& decoder, const Instruction& instruction);
  // Whether the next modifier is `word`; if so it is taken.
  bool Take(std::string_view word);
  // The next modifier, which must be one of `words`.
  std::string_view OneOf(std::initializer_list<std::string_view> words);
  // The next modifier, whatever it is; empty if there is none.
  std::string_view Peek() const;
  std::string_view Next();
  // Every modifier must have been taken.
  void Done() const;

 private:
  const Decoder& decoder_;
  const Instruction& instruction_;
  size_t next_ = 1;
};

class Decoder {
 public:
  Decoder(std::string_view source, Program* program) : source_(source), program_(program) {}

  void Run();

  [[noreturn]] void Fail(const Instruction& instruction, const std::string& message) const;
  [[noreturn]] void Fail(const Operand& operand, const std::string& message) const;

  // The instruction has `count` operands.
  void ExpectOperands(const Instruction& instruction, size_t count) const;

  // Slots of an operand that is read or written as a value of `bytes` a lane (4, 8, 16).
  Slot Source(const Operand& operand, int bytes);
  Slot Destination(const Operand& operand, int bytes);
  Slot PredicateSource(const Operand& operand);
  Slot PredicateDestination(const Operand& operand);
  Slot PredicateNamed(const std::string& name, const Operand& at);
  // A slot that nothing else uses, for sinks.
  Slot Scratch(int bytes);
  Slot ConstantSlot(uint64_t value, int bytes, bool is_shared_address = false);

  // Pushes the slots of a vector's elements (or of a single register); returns how many.
  uint32_t Elements(const Operand& operand, int bytes, bool destination, Op* op);

  // [base + offset]: op->a = the base's slot, op->immediate = the offset, op->small = bytes of the
  // base (4 or 8). `bytes` 8 asks for a 64-bit base, 0 takes either.
  void Address(const Operand& operand, int bytes, Op* op);

  int32_t Target(const Operand& operand) const;
  uint64_t Immediate(const Operand& operand) const;
  int64_t SmallImmediate(const Operand& operand) const;  // 0 to 65535
  bool IsImmediate(const Operand& operand) const { return operand.kind == OperandKind::kImmediate; }
  std::string_view TypeOf(const Operand& operand) const;
  const Program& program() const { return *program_; }
  Program* mutable_program() { return program_; }
  Slot SymbolAddress(const Operand& operand, int bytes);
  uint64_t SymbolValue(const Operand& operand) const;

 private:
  Slot Allocate(uint32_t bytes);
  Slot RegisterSlot(const Operand& operand, int bytes, bool writes);
  OpRegisters TakeRegisters(const Instruction& instruction);
  Slot SpecialRegister(const Operand& operand, int bytes);
  void PlaceVariables();

  std::string_view source_;
  Program* program_;
  std::unordered_map<std::string, Slot> registers_;
  std::unordered_map<std::string, Slot> specials_;
  std::unordered_map<Slot, uint32_t> numbers_;  // of registers, in Program::register_names
  std::vector<uint32_t> reads_, writes_;        // of the instruction being decoded
  std::map<std::tuple<uint64_t, int, bool>, Slot> constants_;
  std::unordered_map<std::string, uint64_t> symbols_;
  std::set<std::string> shared_symbols_;
};

// Bytes a lane in a frame of a type, "b16" -> 4; 0 for a word that is no type.
int LaneBytes(std::string_view type);
// Bytes in memory of a type, "b16" -> 2.
int MemoryBytes(std::string_view type);

// One function a chapter of the manual; isa/ holds them.
void RegisterInteger(InstructionTable* table);
void RegisterLogic(InstructionTable* table);
void RegisterBits(InstructionTable* table);
void RegisterFloat(InstructionTable* table);
void RegisterSpecial(InstructionTable* table);
void RegisterConvert(InstructionTable* table);
void RegisterMove(InstructionTable* table);
void RegisterCompare(InstructionTable* table);
void RegisterControl(InstructionTable* table);
void RegisterMemory(InstructionTable* table);
void RegisterAtomic(InstructionTable* table);
void RegisterShuffle(InstructionTable* table);
void RegisterBarrier(InstructionTable* table);
void RegisterMbarrier(InstructionTable* table);
void RegisterBulk(InstructionTable* table);
void RegisterWgmma(InstructionTable* table);
void RegisterStmatrix(InstructionTable* table);
void RegisterLdmatrix(InstructionTable* table);
void RegisterMma(InstructionTable* table);
void RegisterCluster(InstructionTable* table);
void RegisterClusterLaunch(InstructionTable* table);
void RegisterTcgen05(InstructionTable* table);
void RegisterSetmaxnreg(InstructionTable* table);

}  // namespace jax_fa4::emulator
