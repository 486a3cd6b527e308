// Feeds the engine damaged kernels, and kernels of random instructions, in random launches: it may
// refuse them or find fault with them, but must neither crash nor hang. Build with
// -fsanitize=address,undefined -fno-sanitize-recover=all to see more.
//
//   fuzz <inputs> <seed> <directory of .ptx files>...
//
// An input that crashes or takes too long is written to fuzz-<seed>.ptx; the same seed meets it
// again. The last lines say how often each finding was made.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "emulator/emulator.h"
#include "fuzz_launch.h"
#include "fuzz_program.h"
#include "fuzz_text.h"

namespace {

constexpr unsigned kSeconds = 60;  // for one input

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

std::vector<std::string> Corpus(char** first, char** last) {
  std::vector<std::filesystem::path> paths;
  for (; first != last; ++first) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(*first)) {
      if (entry.path().extension() == ".ptx") paths.push_back(entry.path());
    }
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const auto& path : paths) {
    std::ostringstream text;
    text << std::ifstream(path).rdbuf();
    corpus.push_back(text.str());
  }
  return corpus;
}

struct Counts {
  uint64_t decoded = 0;
  uint64_t ran = 0;  // to the end
  std::map<std::string, uint64_t> findings;
};

void Run(fuzz::Launches* launches, Counts* counts) {
  using namespace jax_fa4::emulator;
  const Kernel kernel = LoadKernel(current);
  if (kernel.program == nullptr) return;
  ++counts->decoded;
  const Launch launch = launches->Next(*kernel.program->entry);
  const Report report = RunKernel(*kernel.program, launch, launches->NextOptions());
  if (report.ok) {
    ++counts->ran;
  } else {
    const size_t end = report.error.find(": ");
    const bool finding = end != std::string::npos && end < 25;
    ++counts->findings[finding ? report.error.substr(0, end) : "launch"];
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "fuzz <inputs> <seed> <directory of .ptx files>...\n");
    return 2;
  }
  crash_file = std::string("fuzz-") + argv[2] + ".ptx";
  for (int signal : {SIGALRM, SIGSEGV, SIGABRT, SIGFPE, SIGBUS}) ::signal(signal, Save);
  const uint64_t inputs = std::strtoull(argv[1], nullptr, 10);
  fuzz::Dice dice(std::strtoull(argv[2], nullptr, 10));
  fuzz::Texts texts(Corpus(argv + 3, argv + argc), &dice);
  fuzz::Programs programs(&dice);
  fuzz::Launches launches(&dice);
  Counts counts;
  for (uint64_t i = 0; i < inputs; ++i) {
    current = dice.OneIn(2) ? texts.Next() : programs.Next();
    if (dice.OneIn(20)) current = texts.Mutated(current);
    alarm(kSeconds);
    Run(&launches, &counts);
    if ((i + 1) % 10000 == 0) {
      std::fprintf(stderr, "%llu inputs\n", static_cast<unsigned long long>(i + 1));
    }
  }
  const auto print = [](uint64_t count, const char* what) {
    std::printf("%llu %s\n", static_cast<unsigned long long>(count), what);
  };
  print(inputs, "inputs");
  print(counts.decoded, "decoded");
  print(counts.ran, "ran to the end");
  for (const auto& [kind, count] : counts.findings) print(count, kind.c_str());
  return 0;
}
