#include "emulator/ptx/parser.h"

#include <utility>

#include "emulator/ptx/body_parser.h"
#include "emulator/ptx/token_stream.h"

namespace jax_fa4::emulator {
namespace {

constexpr uint64_t kMaxParameterBytes = 32764;  // what a driver takes at the most

// A module: its directives, declarations and entries.
class Parser : private TokenStream {
 public:
  explicit Parser(std::string_view source) : TokenStream(source) {}

  Module Run() {
    while (Peek().kind != TokenKind::kEnd) TopLevel();
    return std::move(module_);
  }

 private:
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
      auto [name, variable] = ExpectVariable();
      variable.is_extern = is_extern;
      module_.variables[name] = variable;
    } else {
      Fail(Peek().where, "unknown declaration '" + std::string(Peek().text) + "'");
    }
  }

  void EntryPoint() {
    Take();
    entry_ = Entry();
    entry_.name = std::string(ExpectWord());
    if (At("(")) Parameters();
    while (!At("{")) EntryDirective();
    BodyParser(*this, &entry_).Run();
    module_.entries.push_back(std::move(entry_));
  }

  void Parameters() {
    Take();
    while (!At(")")) {
      Expect(".param");
      uint32_t align = 0;
      if (At(".align")) {
        Take();
        align = ExpectAlignment();
      }
      const Location where = Peek().where;
      uint32_t size = ExpectType();
      if (align == 0) align = size;
      while (At(".ptr") || At(".global") || At(".align")) {  // attributes of a pointer
        if (Take().text == ".align") ExpectNumber();
      }
      Parameter parameter;
      parameter.name = std::string(ExpectWord());
      if (At("[")) {
        Take();
        const uint64_t count = ExpectNumber();
        if (count > 65536) Fail(where, "parameter larger than 64 KiB");
        size *= static_cast<uint32_t>(count);
        Expect("]");
      }
      parameter.offset = (entry_.parameter_bytes + align - 1) & ~(align - 1);
      parameter.size = size;
      if (uint64_t{parameter.offset} + size > kMaxParameterBytes) {
        Fail(where, "more than " + std::to_string(kMaxParameterBytes) + " bytes of parameters");
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

  uint32_t ReqntidAxis(int axis) {
    if (axis > 0) Take();
    return static_cast<uint32_t>(ExpectNumber());
  }

  Module module_;
  Entry entry_;
};

}  // namespace

Module Parse(std::string_view source) { return Parser(source).Run(); }

}  // namespace jax_fa4::emulator
