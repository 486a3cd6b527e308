// PTX text -> tokens.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "emulator/ptx/ast.h"

namespace jax_fa4::emulator {

enum class TokenKind { kWord, kNumber, kString, kPunctuation, kEnd };

struct Token {
  TokenKind kind = TokenKind::kEnd;
  std::string_view text;  // into the source
  Location where;
};

// Words keep their dots and double colons: "cp.async.bulk.tensor.4d.shared::cta", "%tid.x", ".reg".
// Throws SyntaxError.
std::vector<Token> Tokenize(std::string_view source);

// `message` with the line of `where` and a caret under its column.
SyntaxError ErrorAt(std::string_view source, const Location& where, const std::string& message);

}  // namespace jax_fa4::emulator
