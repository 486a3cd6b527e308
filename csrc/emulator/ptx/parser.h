// PTX text -> Module.
#pragma once

#include <string_view>

#include "emulator/ptx/ast.h"

namespace jax_fa4::emulator {

// Parses a whole module. Whatever it does not know is a SyntaxError, thrown; never a guess.
Module Parse(std::string_view source);

}  // namespace jax_fa4::emulator
