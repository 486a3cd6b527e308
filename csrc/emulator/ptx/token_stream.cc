#include "emulator/ptx/token_stream.h"

#include <cstdlib>

namespace jax_fa4::emulator {

uint32_t SizeOfType(std::string_view type) {
  if (type == "pred" || type == "b8" || type == "u8" || type == "s8") return 1;
  if (type == "b16" || type == "u16" || type == "s16" || type == "f16" || type == "bf16") return 2;
  if (type == "b32" || type == "u32" || type == "s32" || type == "f32" || type == "f16x2") return 4;
  if (type == "b64" || type == "u64" || type == "s64" || type == "f64") return 8;
  if (type == "b128") return 16;
  return 0;
}

uint64_t TokenStream::NumberOf(const Token& token, bool* is_float) const {
  uint64_t bits = 0;
  std::string text(token.text);
  char* end = nullptr;
  if (text.rfind("0f", 0) == 0 || text.rfind("0F", 0) == 0 || text.rfind("0d", 0) == 0 ||
      text.rfind("0D", 0) == 0) {
    if (is_float != nullptr) *is_float = true;
    bits = std::strtoull(text.c_str() + 2, &end, 16);
  } else if (text[0] == '-') {
    bits = ~std::strtoull(text.c_str() + 1, &end, 0) + 1;
  } else {
    if (!text.empty() && text.back() == 'U') text.pop_back();
    bits = std::strtoull(text.c_str(), &end, 0);
  }
  if (end == nullptr || *end != '\0') Fail(token.where, "malformed number");
  return bits;
}

uint32_t TokenStream::ExpectAlignment() {
  const Location where = Peek().where;
  const uint64_t align = ExpectNumber();
  if (align == 0 || align > 4096 || (align & (align - 1)) != 0) {
    Fail(where, "an alignment must be a power of 2 up to 4096");
  }
  return static_cast<uint32_t>(align);
}

uint32_t TokenStream::ExpectType() {
  const Token type = Take();
  const uint32_t size = type.text.empty() ? 0 : SizeOfType(type.text.substr(1));
  if (size == 0) Fail(type.where, "unknown type '" + std::string(type.text) + "'");
  return size;
}

std::pair<std::string, Variable> TokenStream::ExpectVariable() {
  Variable variable;
  variable.space = std::string(Take().text.substr(1));
  if (At(".align")) {
    Take();
    variable.align = ExpectAlignment();
  }
  const Location where = Peek().where;
  const uint32_t size = ExpectType();
  std::string name(ExpectWord());
  uint64_t count = 1;
  if (At("[")) {
    Take();
    count = At("]") ? 0 : ExpectNumber();
    Expect("]");
  }
  Expect(";");
  if (count > (uint64_t{1} << 32)) Fail(where, "variable larger than 4 GiB");
  variable.size = size * count;
  return {name, variable};
}

}  // namespace jax_fa4::emulator
