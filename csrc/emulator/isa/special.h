// What the special function unit of a GPU returns.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace jax_fa4::emulator {

// How hardware rounds, read off an H100: its result minus the correctly rounded one, in units of
// the last place, for every fraction i * 2^-23.
struct SpecialTables {
  static constexpr size_t kEntries = size_t{1} << 23;
  std::vector<int8_t> ex2_positive;  // ex2.approx.ftz.f32 at i * 2^-23
  std::vector<int8_t> ex2_negative;  // at -i * 2^-23
  std::vector<int8_t> rcp;           // rcp.approx.ftz.f32 at 1 + i * 2^-23

  bool Complete() const {
    return ex2_positive.size() == kEntries && ex2_negative.size() == kEntries &&
           rcp.size() == kEntries;
  }
};

}  // namespace jax_fa4::emulator
