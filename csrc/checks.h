// Checks of what XLA hands over, with the argument's name and its values in every refusal. Python
// checks the same for users before it calls; these guard the kernels against every other caller.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "status.h"

namespace jax_fa4 {

// A buffer with the name that messages give it.
struct Named {
  std::string_view name;
  ffi::AnyBuffer buffer;
};

// The buffers of a call under their names, or InvalidArgument if there are not as many.
ffi::Error NameArguments(std::string_view operation, const ffi::RemainingArgs& arguments,
                         std::initializer_list<std::string_view> names, std::vector<Named>* named);
ffi::Error NameResults(std::string_view operation, const ffi::RemainingRets& results,
                       std::initializer_list<std::string_view> names, std::vector<Named>* named);

// "q bf16(2, 128, 4, 64)".
std::string Describe(const Named& argument);

ffi::Error CheckDType(std::string_view operation, const Named& argument, ffi::DataType dtype);

// bf16 or fp16.
ffi::Error CheckHalfPrecision(std::string_view operation, const Named& argument);

// Every dimension in 1 .. 2**31 - 1, and as many of them as `names`, "(batch, seqlen, heads, d)".
ffi::Error CheckRank(std::string_view operation, const Named& argument, size_t rank,
                     std::string_view names);

ffi::Error CheckShape(std::string_view operation, const Named& argument,
                      std::initializer_list<int64_t> shape, std::string_view reason);

// Kernels read 16 bytes at a time.
ffi::Error CheckAligned(std::string_view operation, const Named& argument);

// A multiple of `step`, a 16 byte read: 8 for half precision; `name` is the dimension's.
ffi::Error CheckHeadDim(std::string_view operation, std::string_view name, int64_t head_dim,
                        int64_t step = 8);

// A typed attribute, or which one is missing.
template <typename T>
ffi::Error ReadAttribute(std::string_view operation, const ffi::Dictionary& attributes,
                         std::string_view name, T* value) {
  auto found = attributes.get<T>(name);
  if (found.has_error()) return InvalidArgument(operation, name, ": ", found.error().message());
  *value = *found;
  return ffi::Error::Success();
}

// "bf16" for BF16 and so on: the words that variants use.
std::string_view DTypeName(ffi::DataType dtype);

}  // namespace jax_fa4
