#include "emulator/ptx/parser.h"

#include <cstdlib>
#include <utility>

#include "emulator/ptx/lexer.h"

namespace jax_fa4::emulator {
namespace {

uint32_t SizeOfType(std::string_view type) {
  if (type == "pred" || type == "b8" || type == "u8" || type == "s8") return 1;
  if (type == "b16" || type == "u16" || type == "s16" || type == "f16" || type == "bf16") return 2;
  if (type == "b32" || type == "u32" || type == "s32" || type == "f32" || type == "f16x2") return 4;
  if (type == "b64" || type == "u64" || type == "s64" || type == "f64") return 8;
  if (type == "b128") return 16;
  return 0;
}

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

// Names declared between one pair of braces; outer scopes follow.
constexpr size_t kMaxScopes = 64;               // braces within braces
constexpr int kMaxOperandDepth = 4;             // lists within lists
constexpr size_t kMaxRegisters = 1u << 17;      // of an entry
constexpr uint64_t kMaxParameterBytes = 32764;  // what a driver takes at the most

struct Scope {
  std::unordered_map<std::string, std::string> names;  // as written -> unique
};

class Parser {
 public:
  explicit Parser(std::string_view source) : source_(source), tokens_(Tokenize(source)) {}

  Module Run() {
    while (Peek().kind != TokenKind::kEnd) TopLevel();
    return std::move(module_);
  }

 private:
  // ---- tokens
  const Token& Peek(size_t ahead = 0) const {
    const size_t at = position_ + ahead;
    return at < tokens_.size() ? tokens_[at] : tokens_.back();
  }
  bool At(std::string_view text) const { return Peek().text == text; }
  Token Take() {
    Token token = Peek();
    if (token.kind != TokenKind::kEnd) ++position_;
    return token;
  }
  [[noreturn]] void Fail(const Location& where, const std::string& message) const {
    throw ErrorAt(source_, where, message);
  }
  Token Expect(std::string_view text) {
    if (!At(text)) {
      Fail(Peek().where,
           "expected '" + std::string(text) + "', found '" + std::string(Peek().text) + "'");
    }
    return Take();
  }
  std::string_view ExpectWord() {
    if (Peek().kind != TokenKind::kWord) Fail(Peek().where, "expected a name");
    return Take().text;
  }
  uint64_t ExpectNumber() {
    if (Peek().kind != TokenKind::kNumber) Fail(Peek().where, "expected a number");
    const Token token = Take();
    Operand operand = Number(token);
    return operand.bits;
  }

  // ---- module level
  void TopLevel() {
    const Token token = Peek();
    if (At(".version")) {
      Take();
      module_.version = std::string(Take().text);
    } else if (At(".target")) {
      Take();
      module_.target = std::string(ExpectWord());
      while (At(",")) {
        Take();
        Take();
      }
    } else if (At(".address_size")) {
      Take();
      if (ExpectNumber() != 64) Fail(token.where, "only 64-bit addresses are supported");
    } else if (At(".file")) {
      Take();
      const int number = static_cast<int>(ExpectNumber());
      std::string_view path = Take().text;
      if (path.size() >= 2) path = path.substr(1, path.size() - 2);
      module_.files[number] = std::string(path);
      while (At(",")) {
        Take();
        Take();
      }
    } else if (At(".section")) {
      SkipSection();
    } else if (At(".visible") || At(".extern") || At(".entry") || At(".shared") || At(".weak")) {
      Declaration();
    } else {
      Fail(token.where, "unknown directive '" + std::string(token.text) + "'");
    }
  }

  // Debug information is data for debuggers; nothing executes it.
  void SkipSection() {
    Take();
    Take();
    Expect("{");
    int depth = 1;
    while (depth > 0) {
      if (Peek().kind == TokenKind::kEnd) Fail(Peek().where, "section without an end");
      if (At("{")) ++depth;
      if (At("}")) --depth;
      Take();
    }
  }

  void Declaration() {
    bool is_extern = false;
    while (At(".visible") || At(".extern") || At(".weak")) is_extern |= Take().text == ".extern";
    if (At(".entry")) {
      EntryPoint();
    } else if (At(".shared")) {
      auto [name, variable] = VariableDeclaration();
      variable.is_extern = is_extern;
      module_.variables[name] = variable;
    } else {
      Fail(Peek().where, "unknown declaration '" + std::string(Peek().text) + "'");
    }
  }

  // `.shared .align 1024 .b8 name[123];`
  std::pair<std::string, Variable> VariableDeclaration() {
    Variable variable;
    variable.space = std::string(Take().text.substr(1));
    if (At(".align")) {
      Take();
      variable.align = Alignment();
    }
    const Token type = Take();
    const uint32_t size = type.text.empty() ? 0 : SizeOfType(type.text.substr(1));
    if (size == 0) Fail(type.where, "unknown type '" + std::string(type.text) + "'");
    std::string name(ExpectWord());
    uint64_t count = 1;
    if (At("[")) {
      Take();
      count = At("]") ? 0 : ExpectNumber();
      Expect("]");
    }
    Expect(";");
    if (count > (uint64_t{1} << 32)) Fail(type.where, "variable larger than 4 GiB");
    variable.size = size * count;
    return {name, variable};
  }

  void EntryPoint() {
    Take();
    entry_ = Entry();
    entry_.name = std::string(ExpectWord());
    if (At("(")) Parameters();
    while (!At("{")) EntryDirective();
    scopes_.clear();
    location_ = Location();
    Block();
    if (!scopes_.empty()) Fail(Peek().where, "brace without an end");
    ImplicitReturn();
    module_.entries.push_back(std::move(entry_));
  }

  uint32_t Alignment() {
    const Location where = Peek().where;
    const uint64_t align = ExpectNumber();
    if (align == 0 || align > 4096 || (align & (align - 1)) != 0) {
      Fail(where, "an alignment must be a power of 2 up to 4096");
    }
    return static_cast<uint32_t>(align);
  }

  void Parameters() {
    Take();
    while (!At(")")) {
      Expect(".param");
      uint32_t align = 0;
      if (At(".align")) {
        Take();
        align = Alignment();
      }
      const Token type = Take();
      uint32_t size = type.text.empty() ? 0 : SizeOfType(type.text.substr(1));
      if (size == 0) Fail(type.where, "unknown type '" + std::string(type.text) + "'");
      if (align == 0) align = size;
      while (At(".ptr") || At(".global") || At(".align")) {  // attributes of a pointer
        if (Take().text == ".align") ExpectNumber();
      }
      Parameter parameter;
      parameter.name = std::string(ExpectWord());
      if (At("[")) {
        Take();
        const uint64_t count = ExpectNumber();
        if (count > 65536) Fail(type.where, "parameter larger than 64 KiB");
        size *= static_cast<uint32_t>(count);
        Expect("]");
      }
      parameter.offset = (entry_.parameter_bytes + align - 1) & ~(align - 1);
      parameter.size = size;
      if (uint64_t{parameter.offset} + size > kMaxParameterBytes) {
        Fail(type.where,
             "more than " + std::to_string(kMaxParameterBytes) + " bytes of parameters");
      }
      entry_.parameter_bytes = parameter.offset + size;
      entry_.parameters.push_back(parameter);
      if (At(",")) Take();
    }
    Take();
  }

  void EntryDirective() {
    const Token token = Take();
    if (token.text == ".reqntid") {
      for (int axis = 0; axis < 3; ++axis) {
        entry_.threads[axis] = axis == 0 || At(",") ? ReqntidAxis(axis) : 1;
      }
    } else if (token.text == ".minnctapersm" || token.text == ".maxnreg" ||
               token.text == ".maxclusterrank") {
      ExpectNumber();
    } else if (token.text == ".maxntid" || token.text == ".reqnctapercluster") {
      ExpectNumber();
      while (At(",")) {
        Take();
        ExpectNumber();
      }
    } else if (token.text != ".explicitcluster" && token.text != ".blocksareclusters") {
      Fail(token.where, "unknown directive of an entry '" + std::string(token.text) + "'");
    }
  }

  // Who runs off the end of an entry leaves it.
  void ImplicitReturn() {
    Instruction instruction;
    instruction.text = "ret";
    instruction.opcode = {"ret"};
    instruction.where = Place(tokens_[position_ - 1].where);
    entry_.instructions.push_back(std::move(instruction));
  }

  uint32_t ReqntidAxis(int axis) {
    if (axis > 0) Take();
    return static_cast<uint32_t>(ExpectNumber());
  }

  // ---- bodies
  void Block() {
    OpenScope();
    while (!At("}")) {
      if (Peek().kind == TokenKind::kEnd) Fail(Peek().where, "body without an end");
      Statement();
    }
    Take();
    scopes_.pop_back();
  }

  // Collects the labels of the scope first: branches may go forward.
  void OpenScope() {
    const Token brace = Expect("{");
    if (scopes_.size() >= kMaxScopes) Fail(brace.where, "too many braces within braces");
    scopes_.emplace_back();
    const size_t number = ++scope_count_;
    int depth = 1;
    for (size_t i = position_; i + 1 < tokens_.size() && depth > 0; ++i) {
      if (tokens_[i].text == "{") ++depth;
      if (tokens_[i].text == "}") --depth;
      if (depth == 1 && tokens_[i].kind == TokenKind::kWord && tokens_[i + 1].text == ":") {
        Declare(std::string(tokens_[i].text), number);
      }
    }
  }

  void Declare(const std::string& name, size_t scope_number) {
    scopes_.back().names[name] =
        scopes_.size() == 1 ? name : name + "#" + std::to_string(scope_number);
  }

  void Statement() {
    const Token token = Peek();
    if (At("{")) {
      Block();
    } else if (At(".reg")) {
      RegisterDeclaration();
    } else if (At(".loc")) {
      LocationDirective();
    } else if (At(".pragma")) {
      while (!At(";") && Peek().kind != TokenKind::kEnd) Take();
      Expect(";");
    } else if (At(".shared") || At(".local")) {
      auto [name, variable] = VariableDeclaration();
      Declare(name, scope_count_);
      entry_.variables[scopes_.back().names[name]] = variable;
    } else if (token.kind == TokenKind::kWord && Peek(1).text == ":") {
      const std::string& name = scopes_.back().names[std::string(token.text)];
      if (!entry_.labels.emplace(name, entry_.instructions.size()).second) {
        Fail(token.where, "label " + std::string(token.text) + " stands here a second time");
      }
      Take();
      Take();
    } else if (At(";")) {
      Take();
    } else {
      InstructionStatement();
    }
  }

  void RegisterDeclaration() {
    Take();
    std::string_view type = ExpectWord().substr(1);
    if (SizeOfType(type) == 0) Fail(Peek().where, "unknown type '." + std::string(type) + "'");
    while (true) {
      const Token token = Peek();
      std::string name(ExpectWord());
      if (At("<")) {
        Take();
        const uint64_t count = ExpectNumber();
        Expect(">");
        if (count > kMaxRegisters || entry_.registers.size() + count > kMaxRegisters) {
          Fail(token.where, "more than " + std::to_string(kMaxRegisters) + " registers");
        }
        for (uint64_t i = 0; i < count; ++i) {
          AddRegister(name + std::to_string(i), type);
        }
      } else {
        AddRegister(name, type);
      }
      if (!At(",")) break;
      Take();
    }
    Expect(";");
  }

  void AddRegister(const std::string& name, std::string_view type) {
    Declare(name, scope_count_);
    entry_.registers[scopes_.back().names[name]] = {std::string(type)};
  }

  void LocationDirective() {
    Take();
    location_.file = static_cast<int>(ExpectNumber());
    location_.source_line = static_cast<int>(ExpectNumber());
    ExpectNumber();
    while (At(",")) {  // function_name and inlined_at attributes
      Take();
      while (!At(",") && Peek().kind != TokenKind::kEnd &&
             Peek().where.line == tokens_[position_ - 1].where.line) {
        Take();
      }
    }
  }

  void InstructionStatement() {
    Instruction instruction;
    if (At("@")) {
      Take();
      if (At("!")) {
        Take();
        instruction.guard_negated = true;
      }
      const Token guard = Peek();
      instruction.guard = Resolve(ExpectWord());
      if (instruction.guard.empty()) Fail(guard.where, "undeclared predicate");
    }
    const Token opcode = Peek();
    if (opcode.kind != TokenKind::kWord || opcode.text[0] == '.') {
      Fail(opcode.where, "unknown statement '" + std::string(opcode.text) + "'");
    }
    Take();
    instruction.text = std::string(opcode.text);
    instruction.opcode = SplitAtDots(opcode.text);
    for (const std::string& part : instruction.opcode) {
      if (part.empty()) Fail(opcode.where, "two dots in a row, or one at the end");
    }
    instruction.where = Place(opcode.where);
    while (!At(";")) {
      instruction.operands.push_back(ParseOperand());
      if (At(",")) {
        Take();
      } else if (!At(";")) {
        Fail(Peek().where, "expected ',' or ';', found '" + std::string(Peek().text) + "'");
      }
    }
    Take();
    entry_.instructions.push_back(std::move(instruction));
  }

  Location Place(Location where) const {
    where.file = location_.file;
    where.source_line = location_.source_line;
    return where;
  }

  // ---- operands
  Operand ParseOperand(int depth = 0) {
    const Token token = Peek();
    if (depth > kMaxOperandDepth) Fail(token.where, "too many lists within lists");
    Operand operand;
    operand.where = Place(token.where);
    if (At("{")) {
      operand.kind = OperandKind::kVector;
      List("}", depth, &operand.elements);
    } else if (At("[")) {
      operand = Address(depth);
    } else if (token.kind == TokenKind::kNumber) {
      operand = Number(Take());
    } else if (At("!")) {
      Take();
      operand = ParseOperand(depth + 1);
      operand.negated = true;
    } else if (token.kind == TokenKind::kWord) {
      operand = Name(Take());
      if (At("|")) {
        Take();
        const Token second = Take();
        operand.second = second.text == "_" ? "" : Resolve(second.text);
        if (operand.second.empty() && second.text != "_") Fail(second.where, "undeclared register");
      }
    } else {
      Fail(token.where, "unknown operand '" + std::string(token.text) + "'");
    }
    return operand;
  }

  void List(std::string_view end, int depth, std::vector<Operand>* elements) {
    Take();
    while (!At(end)) {
      if (Peek().kind == TokenKind::kEnd) Fail(Peek().where, "list without an end");
      elements->push_back(ParseOperand(depth + 1));
      if (At(",")) Take();
    }
    Take();
  }

  // [base], [base+8], [base, {x, y}]
  Operand Address(int depth) {
    Operand operand;
    operand.kind = OperandKind::kAddress;
    operand.where = Place(Peek().where);
    Take();
    const Operand base = ParseOperand(depth + 1);
    operand.name = base.name;
    operand.negated = base.kind == OperandKind::kImmediate;  // an absolute address
    if (base.kind == OperandKind::kImmediate) operand.offset = static_cast<int64_t>(base.bits);
    if (base.kind != OperandKind::kRegister && base.kind != OperandKind::kSymbol &&
        base.kind != OperandKind::kImmediate) {
      Fail(base.where, "an address must begin with a register, a name or a number");
    }
    if (At("+")) {
      Take();
      AddOffset(&operand);
    } else if (Peek().kind == TokenKind::kNumber && Peek().text[0] == '-') {
      AddOffset(&operand);
    }
    while (At(",")) {
      Take();
      operand.elements.push_back(ParseOperand(depth + 1));
    }
    Expect("]");
    return operand;
  }

  // Address arithmetic wraps.
  void AddOffset(Operand* operand) {
    operand->offset = static_cast<int64_t>(static_cast<uint64_t>(operand->offset) + ExpectNumber());
  }

  Operand Number(const Token& token) const {
    Operand operand;
    operand.kind = OperandKind::kImmediate;
    operand.where = Place(token.where);
    std::string text(token.text);
    char* end = nullptr;
    if (text.rfind("0f", 0) == 0 || text.rfind("0F", 0) == 0 || text.rfind("0d", 0) == 0 ||
        text.rfind("0D", 0) == 0) {
      operand.is_float = true;
      operand.bits = std::strtoull(text.c_str() + 2, &end, 16);
    } else if (text[0] == '-') {
      operand.bits = ~std::strtoull(text.c_str() + 1, &end, 0) + 1;
    } else {
      if (!text.empty() && text.back() == 'U') text.pop_back();
      operand.bits = std::strtoull(text.c_str(), &end, 0);
    }
    if (end == nullptr || *end != '\0') Fail(token.where, "malformed number");
    return operand;
  }

  Operand Name(const Token& token) const {
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
  std::string Resolve(std::string_view name) const {
    const std::string key(name);
    for (auto scope = scopes_.rbegin(); scope != scopes_.rend(); ++scope) {
      const auto found = scope->names.find(key);
      if (found != scope->names.end()) return found->second;
    }
    return std::string();
  }

  std::string_view source_;
  std::vector<Token> tokens_;
  size_t position_ = 0;
  Module module_;
  Entry entry_;
  std::vector<Scope> scopes_;
  size_t scope_count_ = 0;
  Location location_;
};

}  // namespace

Module Parse(std::string_view source) { return Parser(source).Run(); }

}  // namespace jax_fa4::emulator
