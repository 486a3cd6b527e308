#include "runtime/backend.h"

namespace jax_fa4 {
namespace {
thread_local Backend* current_backend = nullptr;
}  // namespace

Backend* CurrentBackend() { return current_backend; }

BackendScope::BackendScope(Backend* backend, CudaStream stream) : previous_(current_backend) {
  current_backend = backend;
  status_ = backend->Enter(stream, &entered_);
}

BackendScope::~BackendScope() {
  if (entered_) current_backend->Leave();
  current_backend = previous_;
}

}  // namespace jax_fa4
