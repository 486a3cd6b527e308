// What the emulator has to say against a kernel.
#pragma once

#include <string>

#include "emulator/ptx/ast.h"

namespace jax_fa4::emulator {

// Something that the kernel does wrong. Thrown where it is seen; ends the run.
struct Finding {
  std::string kind;  // a short stable name: "out-of-bounds", "deadlock", "race", ...
  std::string what;  // the sentence, with values
  int cta = -1;      // linear index in the grid
  int warp = -1;
  int lane = -1;
  Location where;
  std::string instruction;
};

}  // namespace jax_fa4::emulator
