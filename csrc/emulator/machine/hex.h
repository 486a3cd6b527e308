// A number as messages show it.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

namespace jax_fa4::emulator {

inline std::string Hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof(text), "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

}  // namespace jax_fa4::emulator
