#include "checks.h"

#include <algorithm>
#include <limits>

namespace jax_fa4 {
namespace {

template <typename Dimensions>
std::string ShapeText(const Dimensions& dimensions) {
  std::string text = "(";
  for (int64_t dimension : dimensions) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(dimension);
  }
  return text + ")";
}

ffi::Error CheckCount(std::string_view operation, std::string_view what, size_t count,
                      size_t expected) {
  if (count == expected) return ffi::Error::Success();
  return InvalidArgument(operation, count, " ", what, " given, ", expected, " expected");
}

}  // namespace

std::string_view DTypeName(ffi::DataType dtype) {
  switch (dtype) {
    case ffi::DataType::BF16:
      return "bf16";
    case ffi::DataType::F16:
      return "fp16";
    case ffi::DataType::F8E4M3FN:
      return "e4m3";
    case ffi::DataType::F32:
      return "fp32";
    case ffi::DataType::F64:
      return "fp64";
    case ffi::DataType::S32:
      return "int32";
    default:
      return "another type";
  }
}

ffi::Error NameArguments(std::string_view operation, const ffi::RemainingArgs& arguments,
                         std::initializer_list<std::string_view> names, std::vector<Named>* named) {
  JAX_FA4_RETURN_IF_ERROR(CheckCount(operation, "arguments", arguments.size(), names.size()));
  for (std::string_view name : names) {
    auto buffer = arguments.get<ffi::AnyBuffer>(named->size());
    if (buffer.has_error()) return InvalidArgument(operation, name, buffer.error().message());
    named->push_back({name, *buffer});
  }
  return ffi::Error::Success();
}

ffi::Error NameResults(std::string_view operation, const ffi::RemainingRets& results,
                       std::initializer_list<std::string_view> names, std::vector<Named>* named) {
  JAX_FA4_RETURN_IF_ERROR(CheckCount(operation, "results", results.size(), names.size()));
  for (std::string_view name : names) {
    auto buffer = results.get<ffi::AnyBuffer>(named->size());
    if (buffer.has_error()) return InvalidArgument(operation, name, buffer.error().message());
    named->push_back({name, **buffer});
  }
  return ffi::Error::Success();
}

std::string Describe(const Named& argument) {
  return std::string(argument.name)
      .append(" ")
      .append(DTypeName(argument.buffer.element_type()))
      .append(ShapeText(argument.buffer.dimensions()));
}

ffi::Error CheckDType(std::string_view operation, const Named& argument, ffi::DataType dtype) {
  if (argument.buffer.element_type() == dtype) return ffi::Error::Success();
  return InvalidArgument(operation, Describe(argument), ": dtype must be ", DTypeName(dtype));
}

ffi::Error CheckHalfPrecision(std::string_view operation, const Named& argument) {
  const ffi::DataType dtype = argument.buffer.element_type();
  if (dtype == ffi::DataType::BF16 || dtype == ffi::DataType::F16) return ffi::Error::Success();
  return InvalidArgument(operation, Describe(argument), ": dtype must be bf16 or fp16");
}

ffi::Error CheckRank(std::string_view operation, const Named& argument, size_t rank,
                     std::string_view names) {
  const auto dimensions = argument.buffer.dimensions();
  if (dimensions.size() != rank) {
    return InvalidArgument(operation, Describe(argument), ": rank must be ", rank, ", ", names);
  }
  for (int64_t dimension : dimensions) {
    if (dimension < 1 || dimension > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument(operation, Describe(argument),
                             ": every dimension must be from 1 to 2147483647");
    }
  }
  return ffi::Error::Success();
}

ffi::Error CheckShape(std::string_view operation, const Named& argument,
                      std::initializer_list<int64_t> shape, std::string_view reason) {
  const auto dimensions = argument.buffer.dimensions();
  if (std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end())) {
    return ffi::Error::Success();
  }
  return InvalidArgument(operation, Describe(argument), ": shape must be ", ShapeText(shape), ", ",
                         reason);
}

ffi::Error CheckAligned(std::string_view operation, const Named& argument) {
  const void* data = argument.buffer.untyped_data();
  if (reinterpret_cast<uintptr_t>(data) % 16 == 0) return ffi::Error::Success();
  return InvalidArgument(operation, Describe(argument), ": address ", data,
                         " is not aligned to 16 bytes");
}

ffi::Error CheckHeadDim(std::string_view operation, std::string_view name, int64_t head_dim,
                        int64_t step) {
  if (head_dim % step == 0) return ffi::Error::Success();
  return InvalidArgument(operation, name, " ", head_dim, " is not a multiple of ", step,
                         "; pad it with zeros");
}

}  // namespace jax_fa4
