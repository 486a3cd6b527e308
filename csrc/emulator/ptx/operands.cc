// Operands, as PTX writes them.
#include "emulator/ptx/body_parser.h"

namespace jax_fa4::emulator {
namespace {

constexpr int kMaxOperandDepth = 4;  // lists within lists

}  // namespace

Operand BodyParser::ParseOperand(int depth) {
  const Token token = tokens_.Peek();
  if (depth > kMaxOperandDepth) tokens_.Fail(token.where, "too many lists within lists");
  Operand operand;
  operand.where = Place(token.where);
  if (tokens_.At("{")) {
    operand.kind = OperandKind::kVector;
    List("}", depth, &operand.elements);
  } else if (tokens_.At("[")) {
    operand = Address(depth);
  } else if (token.kind == TokenKind::kNumber) {
    operand = Number(tokens_.Take());
  } else if (tokens_.At("!")) {
    tokens_.Take();
    operand = ParseOperand(depth + 1);
    operand.negated = true;
  } else if (token.kind == TokenKind::kWord) {
    operand = Name(tokens_.Take());
    if (tokens_.At("|")) {
      tokens_.Take();
      const Token second = tokens_.Take();
      operand.second = second.text == "_" ? "" : Resolve(second.text);
      if (operand.second.empty() && second.text != "_")
        tokens_.Fail(second.where, "undeclared register");
    }
  } else {
    tokens_.Fail(token.where, "unknown operand '" + std::string(token.text) + "'");
  }
  return operand;
}

void BodyParser::List(std::string_view end, int depth, std::vector<Operand>* elements) {
  tokens_.Take();
  while (!tokens_.At(end)) {
    if (tokens_.Peek().kind == TokenKind::kEnd)
      tokens_.Fail(tokens_.Peek().where, "list without an end");
    elements->push_back(ParseOperand(depth + 1));
    if (tokens_.At(",")) tokens_.Take();
  }
  tokens_.Take();
}

// [base], [base+8], [base, {x, y}]
Operand BodyParser::Address(int depth) {
  Operand operand;
  operand.kind = OperandKind::kAddress;
  operand.where = Place(tokens_.Peek().where);
  tokens_.Take();
  const Operand base = ParseOperand(depth + 1);
  operand.name = base.name;
  operand.negated = base.kind == OperandKind::kImmediate;  // an absolute address
  if (base.kind == OperandKind::kImmediate) operand.offset = static_cast<int64_t>(base.bits);
  if (base.kind != OperandKind::kRegister && base.kind != OperandKind::kSymbol &&
      base.kind != OperandKind::kImmediate) {
    tokens_.Fail(base.where, "an address must begin with a register, a name or a number");
  }
  if (tokens_.At("+")) {
    tokens_.Take();
    AddOffset(&operand);
  } else if (tokens_.Peek().kind == TokenKind::kNumber && tokens_.Peek().text[0] == '-') {
    AddOffset(&operand);
  }
  while (tokens_.At(",")) {
    tokens_.Take();
    operand.elements.push_back(ParseOperand(depth + 1));
  }
  tokens_.Expect("]");
  return operand;
}

// Address arithmetic wraps.
void BodyParser::AddOffset(Operand* operand) {
  operand->offset =
      static_cast<int64_t>(static_cast<uint64_t>(operand->offset) + tokens_.ExpectNumber());
}

Operand BodyParser::Number(const Token& token) const {
  Operand operand;
  operand.kind = OperandKind::kImmediate;
  operand.where = Place(token.where);
  operand.bits = tokens_.NumberOf(token, &operand.is_float);
  return operand;
}

Operand BodyParser::Name(const Token& token) const {
  Operand operand;
  operand.where = Place(token.where);
  if (token.text == "_") return operand;  // a sink
  operand.name = Resolve(token.text);
  if (operand.name.empty()) {
    operand.name = std::string(token.text);
    operand.kind = OperandKind::kSymbol;
    if (token.text[0] == '%') operand.kind = OperandKind::kRegister;  // a special register
  } else if (entry_.registers.count(operand.name) != 0) {
    operand.kind = OperandKind::kRegister;
  } else if (entry_.variables.count(operand.name) != 0) {
    operand.kind = OperandKind::kSymbol;
  } else {
    operand.kind = OperandKind::kLabel;
  }
  return operand;
}

// The unique name of a register, label or variable; empty if nothing of that name is in scope.
std::string BodyParser::Resolve(std::string_view name) const {
  const std::string key(name);
  for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
    const auto found = scope->names.find(key);
    if (found != scope->names.end()) return found->second;
  }
  return std::string();
}

}  // namespace jax_fa4::emulator
