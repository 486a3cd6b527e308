#include "emulator/ptx/body_parser.h"

#include <utility>

namespace jax_fa4::emulator {
namespace {

constexpr size_t kMaxScopes = 64;           // braces within braces
constexpr size_t kMaxRegisters = 1u << 17;  // of an entry

std::vector<std::string> SplitAtDots(std::string_view text) {
  std::vector<std::string> parts;
  size_t begin = 0;
  while (true) {
    const size_t dot = text.find('.', begin);
    parts.emplace_back(text.substr(begin, dot - begin));
    if (dot == std::string_view::npos) return parts;
    begin = dot + 1;
  }
}

}  // namespace

void BodyParser::Run() {
  Block();
  if (!scopes_.empty()) tokens_.Fail(tokens_.Peek().where, "brace without an end");
  ImplicitReturn();
}

// Who runs off the end of an entry leaves it.
void BodyParser::ImplicitReturn() {
  Instruction instruction;
  instruction.text = "ret";
  instruction.opcode = {"ret"};
  instruction.where = Place(tokens_.Last().where);
  entry_.instructions.push_back(std::move(instruction));
}

void BodyParser::Block() {
  OpenScope();
  while (!tokens_.At("}")) {
    if (tokens_.Peek().kind == TokenKind::kEnd)
      tokens_.Fail(tokens_.Peek().where, "body without an end");
    Statement();
  }
  tokens_.Take();
  scopes_.pop_back();
}

// Collects the labels of the scope first: branches may go forward.
void BodyParser::OpenScope() {
  const Token brace = tokens_.Expect("{");
  if (scopes_.size() >= kMaxScopes) tokens_.Fail(brace.where, "too many braces within braces");
  scopes_.emplace_back();
  const size_t number = ++scope_count_;
  int depth = 1;
  for (size_t ahead = 0; tokens_.Peek(ahead).kind != TokenKind::kEnd && depth > 0; ++ahead) {
    const Token& token = tokens_.Peek(ahead);
    if (token.text == "{") ++depth;
    if (token.text == "}") --depth;
    if (depth == 1 && token.kind == TokenKind::kWord && tokens_.Peek(ahead + 1).text == ":") {
      Declare(std::string(token.text), number);
    }
  }
}

void BodyParser::Declare(const std::string& name, size_t scope_number) {
  scopes_.back().names[name] =
      scopes_.size() == 1 ? name : name + "#" + std::to_string(scope_number);
}

void BodyParser::Statement() {
  const Token token = tokens_.Peek();
  if (tokens_.At("{")) {
    Block();
  } else if (tokens_.At(".reg")) {
    RegisterDeclaration();
  } else if (tokens_.At(".loc")) {
    LocationDirective();
  } else if (tokens_.At(".pragma")) {
    while (!tokens_.At(";") && tokens_.Peek().kind != TokenKind::kEnd) tokens_.Take();
    tokens_.Expect(";");
  } else if (tokens_.At(".shared") || tokens_.At(".local")) {
    auto [name, variable] = tokens_.ExpectVariable();
    Declare(name, scope_count_);
    entry_.variables[scopes_.back().names[name]] = variable;
  } else if (token.kind == TokenKind::kWord && tokens_.Peek(1).text == ":") {
    const std::string& name = scopes_.back().names[std::string(token.text)];
    if (!entry_.labels.emplace(name, entry_.instructions.size()).second) {
      tokens_.Fail(token.where, "label " + std::string(token.text) + " stands here a second time");
    }
    tokens_.Take();
    tokens_.Take();
  } else if (tokens_.At(";")) {
    tokens_.Take();
  } else {
    InstructionStatement();
  }
}

void BodyParser::RegisterDeclaration() {
  tokens_.Take();
  std::string_view type = tokens_.ExpectWord().substr(1);
  if (SizeOfType(type) == 0)
    tokens_.Fail(tokens_.Peek().where, "unknown type '." + std::string(type) + "'");
  while (true) {
    const Token token = tokens_.Peek();
    std::string name(tokens_.ExpectWord());
    if (tokens_.At("<")) {
      tokens_.Take();
      const uint64_t count = tokens_.ExpectNumber();
      tokens_.Expect(">");
      if (count > kMaxRegisters || entry_.registers.size() + count > kMaxRegisters) {
        tokens_.Fail(token.where, "more than " + std::to_string(kMaxRegisters) + " registers");
      }
      for (uint64_t i = 0; i < count; ++i) {
        AddRegister(name + std::to_string(i), type);
      }
    } else {
      AddRegister(name, type);
    }
    if (!tokens_.At(",")) break;
    tokens_.Take();
  }
  tokens_.Expect(";");
}

void BodyParser::AddRegister(const std::string& name, std::string_view type) {
  Declare(name, scope_count_);
  entry_.registers[scopes_.back().names[name]] = {std::string(type)};
}

void BodyParser::LocationDirective() {
  tokens_.Take();
  location_.file = static_cast<int>(tokens_.ExpectNumber());
  location_.source_line = static_cast<int>(tokens_.ExpectNumber());
  tokens_.ExpectNumber();
  while (tokens_.At(",")) {  // function_name and inlined_at attributes
    tokens_.Take();
    while (!tokens_.At(",") && tokens_.Peek().kind != TokenKind::kEnd &&
           tokens_.Peek().where.line == tokens_.Last().where.line) {
      tokens_.Take();
    }
  }
}

void BodyParser::InstructionStatement() {
  Instruction instruction;
  if (tokens_.At("@")) {
    tokens_.Take();
    if (tokens_.At("!")) {
      tokens_.Take();
      instruction.guard_negated = true;
    }
    const Token guard = tokens_.Peek();
    instruction.guard = Resolve(tokens_.ExpectWord());
    if (instruction.guard.empty()) tokens_.Fail(guard.where, "undeclared predicate");
  }
  const Token opcode = tokens_.Peek();
  if (opcode.kind != TokenKind::kWord || opcode.text[0] == '.') {
    tokens_.Fail(opcode.where, "unknown statement '" + std::string(opcode.text) + "'");
  }
  tokens_.Take();
  instruction.text = std::string(opcode.text);
  instruction.opcode = SplitAtDots(opcode.text);
  for (const std::string& part : instruction.opcode) {
    if (part.empty()) tokens_.Fail(opcode.where, "two dots in a row, or one at the end");
  }
  instruction.where = Place(opcode.where);
  while (!tokens_.At(";")) {
    instruction.operands.push_back(ParseOperand());
    if (tokens_.At(",")) {
      tokens_.Take();
    } else if (!tokens_.At(";")) {
      tokens_.Fail(tokens_.Peek().where,
                   "expected ',' or ';', found '" + std::string(tokens_.Peek().text) + "'");
    }
  }
  tokens_.Take();
  entry_.instructions.push_back(std::move(instruction));
}

Location BodyParser::Place(Location where) const {
  where.file = location_.file;
  where.source_line = location_.source_line;
  return where;
}

}  // namespace jax_fa4::emulator
