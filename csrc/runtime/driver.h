// The CUDA driver as a back end: libcuda opened at run time, nothing of CUDA linked.
#pragma once

#include <string>

#include "runtime/backend.h"

namespace jax_fa4 {

// The process's driver. Opened by the first call from any thread and kept until exit; null, with
// the reason in `error`, where there is no usable libcuda.
Backend* GetDriver(std::string* error);

}  // namespace jax_fa4
