// The braces of an entry: declarations, labels and instructions.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "emulator/ptx/token_stream.h"

namespace jax_fa4::emulator {

// Parses one body, "{" to "}", into `entry`.
class BodyParser {
 public:
  BodyParser(TokenStream& tokens, Entry* entry) : tokens_(tokens), entry_(*entry) {}

  void Run();

 private:
  // Names declared between one pair of braces; outer scopes follow.
  struct Scope {
    std::unordered_map<std::string, std::string> names;  // as written -> unique
  };

  void ImplicitReturn();
  void Block();
  void OpenScope();
  void Declare(const std::string& name, size_t scope_number);
  void Statement();
  void RegisterDeclaration();
  void AddRegister(const std::string& name, std::string_view type);
  void LocationDirective();
  void InstructionStatement();
  Location Place(Location where) const;
  Operand ParseOperand(int depth = 0);
  void List(std::string_view end, int depth, std::vector<Operand>* elements);
  Operand Address(int depth);
  void AddOffset(Operand* operand);
  Operand Number(const Token& token) const;
  Operand Name(const Token& token) const;
  std::string Resolve(std::string_view name) const;

  TokenStream& tokens_;
  Entry& entry_;
  std::vector<Scope> scopes_;
  size_t scope_count_ = 0;
  Location location_;
};

}  // namespace jax_fa4::emulator
