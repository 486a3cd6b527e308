#include "emulator/ptx/lexer.h"

#include <cctype>

namespace jax_fa4::emulator {
namespace {

bool IsWordStart(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' ||
         c == '.';
}

bool IsWordPart(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '.' ||
         c == '%';
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(source) {}

  std::vector<Token> Run() {
    std::vector<Token> tokens;
    tokens.reserve(source_.size() / 6);
    while (SkipBlanks()) tokens.push_back(Next());
    tokens.push_back({TokenKind::kEnd, std::string_view(), Here()});
    return tokens;
  }

 private:
  char Peek(size_t ahead = 0) const {
    return position_ + ahead < source_.size() ? source_[position_ + ahead] : '\0';
  }

  Location Here() const {
    Location where;
    where.line = line_;
    where.column = static_cast<int>(position_ - line_start_) + 1;
    return where;
  }

  void Advance() {
    if (source_[position_] == '\n') {
      ++line_;
      line_start_ = position_ + 1;
    }
    ++position_;
  }

  // Past blanks and comments; false at the end.
  bool SkipBlanks() {
    while (position_ < source_.size()) {
      if (std::isspace(static_cast<unsigned char>(Peek()))) {
        Advance();
      } else if (Peek() == '/' && Peek(1) == '/') {
        while (position_ < source_.size() && Peek() != '\n') Advance();
      } else if (Peek() == '/' && Peek(1) == '*') {
        const Location begin = Here();
        while (position_ < source_.size() && !(Peek() == '*' && Peek(1) == '/')) Advance();
        if (position_ >= source_.size()) throw ErrorAt(source_, begin, "comment without an end");
        Advance();
        Advance();
      } else {
        return true;
      }
    }
    return false;
  }

  Token Next() {
    const Location where = Here();
    const size_t begin = position_;
    const char c = Peek();
    TokenKind kind = TokenKind::kPunctuation;
    if (IsWordStart(c)) {
      kind = TokenKind::kWord;
      Word();
    } else if (std::isdigit(static_cast<unsigned char>(c)) ||
               (c == '-' && std::isdigit(static_cast<unsigned char>(Peek(1))))) {
      kind = TokenKind::kNumber;
      Advance();
      while (std::isalnum(static_cast<unsigned char>(Peek())) || Peek() == '.') Advance();
    } else if (c == '"') {
      kind = TokenKind::kString;
      Advance();
      while (position_ < source_.size() && Peek() != '"') Advance();
      if (position_ >= source_.size()) throw ErrorAt(source_, where, "string without an end");
      Advance();
    } else {
      Advance();
    }
    return {kind, source_.substr(begin, position_ - begin), where};
  }

  // A double colon belongs to the word; a single one ends a label.
  void Word() {
    while (position_ < source_.size()) {
      if (IsWordPart(Peek())) {
        Advance();
      } else if (Peek() == ':' && Peek(1) == ':' && IsWordPart(Peek(2))) {
        Advance();
        Advance();
      } else {
        return;
      }
    }
  }

  std::string_view source_;
  size_t position_ = 0;
  size_t line_start_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<Token> Tokenize(std::string_view source) { return Lexer(source).Run(); }

SyntaxError ErrorAt(std::string_view source, const Location& where, const std::string& message) {
  size_t begin = 0;
  for (int line = 1; line < where.line; ++line) {
    const size_t next = source.find('\n', begin);
    if (next == std::string_view::npos) break;
    begin = next + 1;
  }
  std::string text(source.substr(begin, source.find('\n', begin) - begin));
  for (char& c : text) {
    if (c == '\t') c = ' ';
  }
  constexpr size_t kWidth = 160;
  std::string caret(where.column > 0 ? where.column - 1 : 0, ' ');
  if (text.size() > kWidth) text = text.substr(0, kWidth) + " ...";
  if (caret.size() > kWidth) caret.resize(kWidth, ' ');
  return {"PTX line " + std::to_string(where.line) + ": " + message + "\n  " + text + "\n  " +
              caret + "^",
          where};
}

}  // namespace jax_fa4::emulator
