// Launches of random geometry, buffers, parameters and options: mostly sensible ones.
#pragma once

#include <cstring>
#include <vector>

#include "emulator/emulator.h"
#include "fuzz_text.h"

namespace fuzz {

class Launches {
 public:
  explicit Launches(Dice* dice) : dice_(*dice) {
    for (auto& buffer : buffers_) buffer.resize(kBufferBytes + 256);
  }

  jax_fa4::emulator::Launch Next(const jax_fa4::emulator::Entry& entry) {
    jax_fa4::emulator::Launch launch;
    Refill();
    Shape(entry, &launch);
    launch.dynamic_shared_bytes =
        static_cast<uint32_t>(dice_.OneIn(4) ? dice_.Below(4096) : 65536 + dice_.Below(2) * 100000);
    if (dice_.OneIn(50)) launch.dynamic_shared_bytes = static_cast<uint32_t>(dice_.Bits());
    AddBuffers(&launch);
    SetParameters(entry, &launch);
    return launch;
  }

  jax_fa4::emulator::Options NextOptions() {
    jax_fa4::emulator::Options options;
    options.seed = dice_.Below(1000);
    options.completion = static_cast<jax_fa4::emulator::Completion>(dice_.Below(3));
    options.exact_tensor_cores = !dice_.OneIn(3);
    options.level = static_cast<jax_fa4::emulator::Level>(dice_.Below(2));
    // A race or a register without a value would end many runs before anything else can go wrong.
    options.check_races = dice_.OneIn(2);
    options.check_registers = dice_.OneIn(2);
    options.max_instructions = 1 + dice_.Below(3000);
    return options;
  }

 private:
  static constexpr size_t kBufferBytes = 1 << 14;

  void Refill() {
    static const uint8_t kFills[] = {0, 0x3f, 0xff, 0x7f, 0x80};
    for (auto& buffer : buffers_) std::memset(buffer.data(), dice_.Pick(kFills), buffer.size());
  }

  uint32_t Small(uint64_t bound) { return static_cast<uint32_t>(1 + dice_.Below(bound)); }

  void Shape(const jax_fa4::emulator::Entry& entry, jax_fa4::emulator::Launch* launch) {
    launch->block.x = dice_.OneIn(2) ? 128 : Small(160);
    if (entry.threads[0] != 0 && !dice_.OneIn(8)) {
      launch->block = {entry.threads[0], entry.threads[1], entry.threads[2]};
    } else if (dice_.OneIn(8)) {
      launch->block = {Small(8), Small(8), Small(4)};
    }
    launch->cluster.x = dice_.OneIn(2) ? 2 : Small(dice_.OneIn(2) ? 1 : 4);
    if (dice_.OneIn(8)) launch->cluster.y = Small(3);
    launch->grid = {launch->cluster.x * Small(2), launch->cluster.y * Small(2), 1};
    if (dice_.OneIn(8)) launch->grid.z = Small(2);
    uint32_t* const sizes[] = {&launch->grid.x,    &launch->grid.z,  &launch->block.x,
                               &launch->block.y,   &launch->block.z, &launch->cluster.x,
                               &launch->cluster.z, &launch->grid.y};
    static const uint32_t kWrong[] = {0, 3, 1025, 0x80000000u, 0xffffffffu};
    if (dice_.OneIn(30)) *dice_.Pick(sizes) = dice_.Pick(kWrong);
  }

  uint64_t Begin(size_t buffer) const {
    return (reinterpret_cast<uint64_t>(buffers_[buffer].data()) + 255) & ~uint64_t{255};
  }

  // Whole buffers, short ones, empty ones, and the null page.
  void AddBuffers(jax_fa4::emulator::Launch* launch) {
    for (size_t i = 0; i < 2; ++i) {
      const uint64_t bytes = dice_.OneIn(6) ? dice_.Below(300) : kBufferBytes;
      if (dice_.OneIn(20)) continue;
      launch->memory.push_back({Begin(i), Begin(i) + bytes, !dice_.OneIn(8), "buffer"});
    }
    if (dice_.OneIn(20)) launch->memory.push_back({0, 0, true, "nothing"});
  }

  uint64_t Value() {
    switch (dice_.Below(40)) {
      case 0:
        return 0;
      case 1:
        return dice_.Bits();
      case 2:
        return dice_.Below(300);
      case 3:
        return ~dice_.Below(300);
      case 4:  // a matrix descriptor
        return dice_.Below(2048) | uint64_t{64} << 16 | uint64_t{64} << 32 | uint64_t{1} << 46 |
               dice_.Below(8) << 61;
      case 5:  // just before a buffer's end, or past it
        return Begin(dice_.Below(2)) + kBufferBytes - dice_.Below(64) + 8;
      default:
        return Begin(dice_.Below(2));
    }
  }

  void SetParameters(const jax_fa4::emulator::Entry& entry, jax_fa4::emulator::Launch* launch) {
    std::vector<uint8_t>& bytes = launch->parameters;
    bytes.assign(entry.parameter_bytes, 0);
    for (const auto& parameter : entry.parameters) {
      if (uint64_t{parameter.offset} + parameter.size > bytes.size()) continue;
      uint8_t* to = bytes.data() + parameter.offset;
      if (parameter.size == 128) {
        WriteTensorMap(to);
        continue;
      }
      // Below 8 bytes: a number, or an instruction descriptor.
      uint64_t value = parameter.size >= 8 ? Value()
                       : dice_.OneIn(2)    ? dice_.Below(300)
                                           : 0x8100490;
      if (dice_.OneIn(10)) value ^= uint64_t{1} << dice_.Below(64);
      for (uint32_t at = 0; at < parameter.size; at += 8) {
        std::memcpy(to + at, &value, std::min<size_t>(8, parameter.size - at));
      }
    }
    if (dice_.OneIn(20)) bytes.resize(dice_.Below(bytes.size() + 1));
  }

  // A map of random fields, most of them sensible.
  void WriteTensorMap(uint8_t* to) {
    uint64_t words[16] = {};
    const uint64_t rank = dice_.OneIn(2) ? 2 : 1 + dice_.Below(5);
    words[0] = Begin(dice_.Below(2));
    words[1] =
        2 | (rank - 1) << 4 | dice_.Below(11) << 7 | dice_.Below(4) << 13 | uint64_t{8} << 32;
    words[2] = 64 | uint64_t{128} << 32;
    words[3] = 256;
    words[4] = 63 | uint64_t{15} << 32;
    words[5] = 3 | uint64_t{1} << 32;
    words[6] = (dice_.OneIn(8) ? 255ull : 15ull) << 56;
    words[7] = dice_.OneIn(8) ? dice_.Bits() & 0xffffffff : dice_.Below(8);
    if (dice_.OneIn(3)) words[dice_.Below(8)] ^= uint64_t{1} << dice_.Below(64);
    if (dice_.OneIn(20)) words[dice_.Below(8)] = dice_.Bits();
    std::memcpy(to, words, sizeof(words));
  }

  std::vector<uint8_t> buffers_[2];
  Dice& dice_;
};

}  // namespace fuzz
