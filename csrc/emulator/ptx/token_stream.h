// Tokens one after the other, as a parser takes them.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "emulator/ptx/ast.h"
#include "emulator/ptx/lexer.h"

namespace jax_fa4::emulator {

// Bytes of a type's value; 0 for an unknown one.
uint32_t SizeOfType(std::string_view type);

class TokenStream {
 public:
  explicit TokenStream(std::string_view source) : source_(source), tokens_(Tokenize(source)) {}

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
    return NumberOf(Take());
  }
  // The bits of a number, integer or float.
  uint64_t NumberOf(const Token& token, bool* is_float = nullptr) const;
  const Token& Last() const { return tokens_[position_ - 1]; }  // that was taken

  // What declarations of parameters and of variables have in common.
  uint32_t ExpectAlignment();
  uint32_t ExpectType();  // its size
  // `.shared .align 1024 .b8 name[123];`
  std::pair<std::string, Variable> ExpectVariable();

 private:
  std::string_view source_;
  std::vector<Token> tokens_;
  size_t position_ = 0;
};

}  // namespace jax_fa4::emulator
