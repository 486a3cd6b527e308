// Vector clocks: how much of what others did is known to have been performed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace jax_fa4::emulator {

// An entity orders its own accesses by a time that grows: warps, and channels of asynchronous
// operations that are waited for together (races.h).
using EntityId = uint32_t;

class Clock {
 public:
  uint32_t operator[](EntityId entity) const { return entity < times_.size() ? times_[entity] : 0; }
  void Raise(EntityId entity, uint32_t time) {
    if (entity >= times_.size()) times_.resize(entity + 1, 0);
    times_[entity] = std::max(times_[entity], time);
  }
  void Lower(EntityId entity, uint32_t time) {
    if (entity < times_.size()) times_[entity] = std::min(times_[entity], time);
  }
  void Join(const Clock& other) {
    if (other.times_.size() > times_.size()) times_.resize(other.times_.size(), 0);
    for (size_t i = 0; i < other.times_.size(); ++i) {
      times_[i] = std::max(times_[i], other.times_[i]);
    }
  }

 private:
  std::vector<uint32_t> times_;
};

// What accesses through each proxy come after. An access through the generic proxy enters the
// async clock of others only by a fence.proxy.async on the way (PTX ISA 8.6, 8.9.5). The accesses
// of tcgen05 instructions to tensor memory have a clock of their own (9.7.16.6).
struct ProxyClocks {
  Clock generic;
  Clock async;
  Clock tensor;

  void Join(const ProxyClocks& other) {
    generic.Join(other.generic);
    async.Join(other.async);
    tensor.Join(other.tensor);
  }
};

}  // namespace jax_fa4::emulator
