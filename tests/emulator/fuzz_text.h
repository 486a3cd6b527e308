// Damaged texts: kernels of a corpus with bytes, words or lines changed, and nonsense.
#pragma once

#include <algorithm>
#include <cctype>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "emulator/ptx/lexer.h"

namespace fuzz {

// Where all choices come from.
class Dice {
 public:
  explicit Dice(uint64_t seed) : random_(seed) {}
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  bool OneIn(uint64_t bound) { return Below(bound) == 0; }
  uint64_t Bits() { return random_(); }
  template <typename Container>
  const auto& Pick(const Container& from) {
    return from[Below(std::size(from))];
  }

 private:
  std::mt19937_64 random_;
};

class Texts {
 public:
  Texts(std::vector<std::string> corpus, Dice* dice) : corpus_(std::move(corpus)), dice_(*dice) {
    using jax_fa4::emulator::Token;
    for (const std::string& text : corpus_) {
      for (const Token& token : jax_fa4::emulator::Tokenize(text)) {
        if (token.kind != jax_fa4::emulator::TokenKind::kEnd) words_.emplace_back(token.text);
      }
    }
    std::sort(words_.begin(), words_.end());
    words_.erase(std::unique(words_.begin(), words_.end()), words_.end());
    for (const char* word : {"-1",
                             "0",
                             "1",
                             "4294967295",
                             "18446744073709551615",
                             "-9223372036854775808",
                             "0x7fffffff",
                             "1048576",
                             "0f7FC00000",
                             "_",
                             "!",
                             "|",
                             "@",
                             "{",
                             "}",
                             "[",
                             "]",
                             "(",
                             ")",
                             "<",
                             ">",
                             ";",
                             ":",
                             ",",
                             "+",
                             ".",
                             "\"",
                             "/*",
                             "//",
                             "%",
                             "%laneid",
                             "%tid.x",
                             ".pred",
                             ".b128"}) {
      words_.emplace_back(word);
    }
  }

  // A kernel of the corpus, as it is or damaged, or nonsense.
  std::string Next() {
    const uint64_t kind = Below(20);
    if (kind == 0) return Soup();
    if (kind == 1) return Nested();
    std::string text = Pick(corpus_);
    if (kind == 2) return text;
    for (uint64_t left = 1 + Below(kind < 14 ? 2 : 6); left > 0; --left) text = Mutated(text);
    return text;
  }

  // `text` with one thing changed.
  std::string Mutated(const std::string& text) {
    switch (Below(4)) {
      case 0:
        return MutatedLines(text);
      case 1:
        return MutatedBytes(text);
      default:
        return MutatedTokens(text);
    }
  }

 private:
  uint64_t Below(uint64_t bound) { return dice_.Below(bound); }
  template <typename T>
  const T& Pick(const std::vector<T>& from) {
    return dice_.Pick(from);
  }

  std::string Soup() {
    std::string text = ".version 8.6 .target sm_90a .address_size 64 .entry k() {\n";
    for (uint64_t left = Below(200); left > 0; --left) text += Pick(words_) + " ";
    return text;
  }

  // Brackets within brackets, as an operand or as blocks.
  std::string Nested() {
    static const char* const kPairs[] = {"{", "[", "!", "(", "{ .reg .b32 %r<3>; ", "@", "|", "<"};
    std::string text = ".version 8.6 .target sm_90a .address_size 64 .entry k() {";
    text += Below(2) ? "mov.b32 " : " ";
    const char* open = kPairs[Below(8)];
    for (uint64_t left = Below(20000); left > 0; --left) text += open;
    return text;
  }

  // What a word begins with, up to its first digit: registers of one type have one.
  static std::string Prefix(std::string_view word) {
    return std::string(word.substr(0, word.find_first_of("0123456789.")));
  }

  // Another word of the same sort, so that more of the inputs get past the parser.
  std::string Alike(const std::vector<jax_fa4::emulator::Token>& tokens, const std::string& word) {
    if (std::isdigit(static_cast<unsigned char>(word[0]))) {
      static const char* const kNumbers[] = {
          "0", "1",  "-1", "16",  "2147483647",        "4294967295",
          "3", "32", "64", "127", "0x8000000000000000"};
      return kNumbers[Below(sizeof(kNumbers) / sizeof(kNumbers[0]))];
    }
    for (int attempt = 0; attempt < 200; ++attempt) {
      const std::string other(Below(2) ? std::string(tokens[Below(tokens.size())].text)
                                       : Pick(words_));
      if (other != word && !other.empty() && Prefix(other) == Prefix(word)) return other;
    }
    return word;
  }

  std::string MutatedTokens(const std::string& text) {
    std::vector<jax_fa4::emulator::Token> tokens;
    try {
      tokens = jax_fa4::emulator::Tokenize(text);
    } catch (const jax_fa4::emulator::SyntaxError&) {
      return text;
    }
    if (tokens.size() < 2) return text;
    const jax_fa4::emulator::Token& chosen = tokens[Below(tokens.size() - 1)];
    const size_t at = static_cast<size_t>(chosen.text.data() - text.data());
    const size_t size = chosen.text.size();
    std::string with;
    switch (Below(12)) {
      case 0:
        break;  // left out
      case 1:
        with = std::string(chosen.text) + " " + std::string(chosen.text);
        break;
      case 2:  // a word from nearby
        with = std::string(tokens[Below(tokens.size() - 1)].text);
        break;
      case 3:
        with = Pick(words_);
        break;
      default:
        with = Alike(tokens, std::string(chosen.text));
    }
    return text.substr(0, at) + with + text.substr(at + size);
  }

  std::string MutatedLines(const std::string& text) {
    std::vector<std::string> lines = Lines(text);
    if (lines.empty()) return text;
    const auto at = lines.begin() + static_cast<std::ptrdiff_t>(Below(lines.size()));
    switch (Below(4)) {
      case 0:
        lines.erase(at);
        break;
      case 1:
        std::swap(*at, lines[Below(lines.size())]);
        break;
      case 2:
        lines.insert(at, std::string(Pick(lines)));
        break;
      default:
        lines.insert(at, std::string(Pick(Lines(Pick(corpus_)))));
    }
    std::string all;
    for (const std::string& line : lines) all += line + "\n";
    return all;
  }

  std::string MutatedBytes(std::string text) {
    if (text.empty()) return text;
    const size_t at = Below(text.size());
    if (Below(16) == 0) return text.substr(0, at);
    text[at] = static_cast<char>(Below(4) ? 32 + Below(95) : Below(256));
    return text;
  }

  static std::vector<std::string> Lines(const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
  }

  std::vector<std::string> corpus_;
  std::vector<std::string> words_;
  Dice& dice_;
};

}  // namespace fuzz
