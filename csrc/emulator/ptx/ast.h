// PTX as the front end gives it to the machine: flat, with scopes resolved into unique names.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace jax_fa4::emulator {

// Where something stands: in the PTX text, and in the Python source that `.loc` names.
struct Location {
  int line = 0;
  int column = 0;
  int file = 0;  // key of Module::files; 0 where no .loc was given
  int source_line = 0;
};

enum class OperandKind {
  kRegister,   // name
  kImmediate,  // bits; is_float for 0f and 0d forms
  kSymbol,     // name of a parameter or variable
  kLabel,      // name of a label, a branch target
  kVector,     // {elements}
  kAddress,    // [base + offset, elements...]
  kSink,       // _
};

struct Operand {
  OperandKind kind = OperandKind::kSink;
  std::string name;
  std::string second;  // the predicate of a pair, "%r1|%p1"
  uint64_t bits = 0;
  bool is_float = false;
  bool negated = false;  // !%p1
  int64_t offset = 0;    // of an address
  std::vector<Operand> elements;
  Location where;
};

struct Instruction {
  std::string text;                 // the opcode as written, "add.s32"
  std::vector<std::string> opcode;  // split at the dots, "add", "s32"
  std::string guard;                // predicate register, or empty
  bool guard_negated = false;
  std::vector<Operand> operands;
  Location where;

  bool Has(const char* modifier) const {
    for (size_t i = 1; i < opcode.size(); ++i) {
      if (opcode[i] == modifier) return true;
    }
    return false;
  }
};

struct Register {
  std::string type;  // "pred", "b32", ...
};

struct Parameter {
  std::string name;
  uint32_t offset = 0;
  uint32_t size = 0;
};

struct Variable {
  std::string space;  // "shared", "local"
  uint32_t align = 1;
  uint64_t size = 0;
  bool is_extern = false;
};

struct Entry {
  std::string name;
  std::vector<Parameter> parameters;
  uint32_t parameter_bytes = 0;
  uint32_t threads[3] = {0, 0, 0};  // .reqntid; zeros where not given
  std::unordered_map<std::string, Register> registers;
  std::unordered_map<std::string, Variable> variables;
  std::unordered_map<std::string, size_t> labels;  // name -> index of the next instruction
  std::vector<Instruction> instructions;
};

struct Module {
  std::string version;
  std::string target;
  std::unordered_map<int, std::string> files;
  std::unordered_map<std::string, Variable> variables;
  std::vector<Entry> entries;
};

// A mistake in the text, or something that the emulator does not know; `what` shows the line and a
// caret.
struct SyntaxError {
  std::string what;
  Location where;
};

}  // namespace jax_fa4::emulator
