// How things that go wrong are told to XLA: handlers return ffi::Error and never throw.
#pragma once

#include <sstream>
#include <string>
#include <string_view>

#include "runtime/backend.h"
#include "xla/ffi/api/ffi.h"

namespace jax_fa4 {

namespace ffi = ::xla::ffi;

#define JAX_FA4_RETURN_IF_ERROR(expression)            \
  do {                                                 \
    ::xla::ffi::Error checked_error = (expression);    \
    if (checked_error.failure()) return checked_error; \
  } while (false)

// "jax_fa4_fwd_v1: q has ...": every message begins with the operation that refuses.
template <typename... Parts>
std::string Message(std::string_view operation, const Parts&... parts) {
  std::ostringstream text;
  text << operation << ": ";
  (text << ... << parts);
  return text.str();
}

template <typename... Parts>
ffi::Error InvalidArgument(std::string_view operation, const Parts&... parts) {
  return ffi::Error::InvalidArgument(Message(operation, parts...));
}

template <typename... Parts>
ffi::Error FailedPrecondition(std::string_view operation, const Parts&... parts) {
  return ffi::Error(ffi::ErrorCode::kFailedPrecondition, Message(operation, parts...));
}

// A failed CUDA call, in CUDA's own words.
inline ffi::Error CudaError(std::string_view operation, std::string_view variant, Backend* backend,
                            CudaResult result) {
  bool sticky = kCudaErrorFirstSticky <= result && result <= kCudaErrorLastSticky;
  return ffi::Error::Internal(
      Message(operation, variant, ": ", backend->Describe(result),
              sticky ? " (an earlier kernel on this device may have caused it)" : ""));
}

}  // namespace jax_fa4
