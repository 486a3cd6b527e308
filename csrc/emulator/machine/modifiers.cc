// The words of an opcode, and what types take.
#include <algorithm>

#include "emulator/machine/decoder.h"

namespace jax_fa4::emulator {

int LaneBytes(std::string_view type) {
  const int bytes = MemoryBytes(type);
  return bytes == 0 ? 0 : std::max(bytes, 4);
}

int MemoryBytes(std::string_view type) {
  if (type == "b8" || type == "u8" || type == "s8") return 1;
  if (type == "b16" || type == "u16" || type == "s16" || type == "f16" || type == "bf16") return 2;
  if (type == "b32" || type == "u32" || type == "s32" || type == "f32" || type == "f16x2" ||
      type == "bf16x2") {
    return 4;
  }
  if (type == "b64" || type == "u64" || type == "s64" || type == "f64" || type == "f32x2") return 8;
  if (type == "b128") return 16;
  return 0;
}

Modifiers::Modifiers(const Decoder& decoder, const Instruction& instruction)
    : decoder_(decoder), instruction_(instruction) {}

std::string_view Modifiers::Peek() const {
  return next_ < instruction_.opcode.size() ? std::string_view(instruction_.opcode[next_])
                                            : std::string_view();
}

std::string_view Modifiers::Next() {
  const std::string_view word = Peek();
  if (!word.empty()) ++next_;
  return word;
}

bool Modifiers::Take(std::string_view word) {
  if (Peek() != word) return false;
  ++next_;
  return true;
}

std::string_view Modifiers::OneOf(std::initializer_list<std::string_view> words) {
  for (std::string_view word : words) {
    if (Take(word)) return word;
  }
  std::string choices;
  for (std::string_view word : words)
    choices += (choices.empty() ? "." : ", .") + std::string(word);
  decoder_.Fail(instruction_, Peek().empty() ? "one of " + choices + " is missing"
                                             : "modifier '." + std::string(Peek()) +
                                                   "' where one of " + choices + " is expected");
}

void Modifiers::Done() const {
  if (!Peek().empty()) {
    decoder_.Fail(instruction_, "modifier '." + std::string(Peek()) + "' is not supported here");
  }
}

}  // namespace jax_fa4::emulator
