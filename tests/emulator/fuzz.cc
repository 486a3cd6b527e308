// Feeds the engine damaged kernels: it may refuse them or find fault with them, but must neither
// crash nor hang. Build with -fsanitize=address,undefined -fno-sanitize-recover=all to see more.
//
//   fuzz <directory of .ptx files> <inputs> <seed>
//
// An input that crashes or takes too long is written to fuzz-<seed>.ptx.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/ptx/lexer.h"

namespace {

using namespace jax_fa4::emulator;

constexpr unsigned kSeconds = 20;  // for one input
constexpr size_t kBufferBytes = 1 << 16;

std::string current;     // the input under way
std::string crash_file;  // where it goes if it crashes

void Save(int signal) {
  if (FILE* file = std::fopen(crash_file.c_str(), "w")) {
    std::fwrite(current.data(), 1, current.size(), file);
    std::fclose(file);
  }
  std::fprintf(stderr, "signal %d, input saved as %s\n", signal, crash_file.c_str());
  _exit(1);
}

class Fuzzer {
 public:
  Fuzzer(std::vector<std::string> corpus, uint64_t seed)
      : corpus_(std::move(corpus)), random_(seed) {
    for (const std::string& text : corpus_) {
      for (const Token& token : Tokenize(text)) {
        if (token.kind != TokenKind::kEnd) words_.emplace_back(token.text);
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
    for (auto& buffer : buffers_) buffer.assign(kBufferBytes + 256, 0x3f);
  }

  std::string Input() {
    const uint64_t kind = Below(20);
    if (kind == 0) return Soup();
    if (kind == 1) return Nested();
    std::string text = Pick(corpus_);
    for (uint64_t left = 1 + Below(kind < 14 ? 2 : 6); left > 0; --left) text = Mutated(text);
    return text;
  }

  // Whether it ran to its end.
  bool Run(const std::string& text) {
    const Kernel kernel = LoadKernel(text);
    if (kernel.program == nullptr) return false;
    ++decoded;
    Launch launch;
    launch.block.x = static_cast<uint32_t>(Below(2) ? 128 : 1 + Below(160));
    launch.cluster.x = static_cast<uint32_t>(1 + Below(2));
    launch.grid.x = launch.cluster.x;
    launch.dynamic_shared_bytes = static_cast<uint32_t>(Below(4) ? 65536 : Below(4096));
    launch.parameters.assign(kernel.program->entry->parameter_bytes, 0);
    for (size_t i = 0; i < 2; ++i) {
      const uint64_t begin = Begin(i);
      launch.memory.push_back({begin, begin + kBufferBytes, Below(8) != 0, "buffer"});
    }
    for (size_t at = 0; at + 8 <= launch.parameters.size(); at += 8) {
      const uint64_t address = Begin(at / 8 % 2);
      std::memcpy(launch.parameters.data() + at, &address, 8);
    }
    for (size_t at = 0; at + 128 <= launch.parameters.size(); at += 64) {
      if (Below(2) != 0) WriteTensorMap(launch.parameters.data() + at);
    }
    Options options;
    options.seed = Below(1000);
    options.completion = static_cast<Completion>(Below(3));
    options.exact_tensor_cores = Below(2) != 0;
    options.max_instructions = 3000;
    return RunKernel(*kernel.program, launch, options).ok;
  }

  uint64_t decoded = 0;

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }
  template <typename T>
  const T& Pick(const std::vector<T>& from) {
    return from[Below(from.size())];
  }
  uint64_t Begin(size_t buffer) const {
    return (reinterpret_cast<uint64_t>(buffers_[buffer].data()) + 255) & ~uint64_t{255};
  }

  // A map of random fields, most of them sensible.
  void WriteTensorMap(uint8_t* to) {
    uint64_t words[16] = {};
    const uint64_t rank = 1 + Below(5);
    words[0] = Begin(0);
    words[1] = 2 | (rank - 1) << 4 | Below(11) << 7 | Below(4) << 13 | uint64_t{8} << 32;
    words[2] = 64 | uint64_t{128} << 32;
    words[3] = 256;
    words[4] = 63 | uint64_t{15} << 32;
    words[5] = 3 | uint64_t{1} << 32;
    words[6] = (Below(8) ? 31 : 255ull) << 56;
    words[7] = Below(8) ? 7 : random_() & 0xffffffff;
    if (Below(8) == 0) words[Below(8)] ^= uint64_t{1} << Below(64);
    std::memcpy(to, words, sizeof(words));
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

  // What a word begins with, up to its first digit: registers of one type have one.
  static std::string Prefix(std::string_view word) {
    return std::string(word.substr(0, word.find_first_of("0123456789.")));
  }

  // Another word of the same sort, so that more of the inputs get past the parser.
  std::string Alike(const std::vector<Token>& tokens, const std::string& word) {
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
    std::vector<Token> tokens;
    try {
      tokens = Tokenize(text);
    } catch (const SyntaxError&) {
      return text;
    }
    if (tokens.size() < 2) return text;
    const Token& chosen = tokens[Below(tokens.size() - 1)];
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
  std::vector<uint8_t> buffers_[2];
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "fuzz <directory of .ptx files> <inputs> <seed>\n");
    return 2;
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[1])) {
    if (entry.path().extension() == ".ptx") paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const auto& path : paths) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    corpus.push_back(text.str());
  }
  crash_file = std::string("fuzz-") + argv[3] + ".ptx";
  for (int signal : {SIGALRM, SIGSEGV, SIGABRT, SIGFPE, SIGBUS}) ::signal(signal, Save);
  const uint64_t inputs = std::strtoull(argv[2], nullptr, 10);
  Fuzzer fuzzer(std::move(corpus), std::strtoull(argv[3], nullptr, 10));
  uint64_t ran = 0;
  for (uint64_t i = 0; i < inputs; ++i) {
    current = fuzzer.Input();
    alarm(kSeconds);
    ran += fuzzer.Run(current) ? 1 : 0;
    if ((i + 1) % 10000 == 0) {
      std::fprintf(stderr, "%llu inputs\n", static_cast<unsigned long long>(i + 1));
    }
  }
  std::printf(
      "%llu inputs, %llu decoded, %llu ran to the end\n", static_cast<unsigned long long>(inputs),
      static_cast<unsigned long long>(fuzzer.decoded), static_cast<unsigned long long>(ran));
  return 0;
}
