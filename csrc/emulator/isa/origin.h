// Where an asynchronous operation was issued, for what may be wrong with it later.
#pragma once

#include <string>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// The operation's thread has gone on by the time it completes, or has exited.
class Origin {
 public:
  Origin(const Warp& warp, int lane)
      : instruction_(warp.op().source),
        cta_(static_cast<int>(warp.cta->linear)),
        warp_(warp.index),
        lane_(lane) {}
  [[noreturn]] void Report(const std::string& kind, const std::string& what) const {
    throw Finding{kind, what, cta_, warp_, lane_, instruction_->where, instruction_->text};
  }

 private:
  const Instruction* instruction_;
  int cta_, warp_, lane_;
};

}  // namespace jax_fa4::emulator
