// Handlers made from a function of one lane.
#pragma once

#include <cstdint>
#include <type_traits>

#include "emulator/machine/machine.h"

namespace jax_fa4::emulator {

// The lane that holds a T: floats keep their own, integers the unsigned type of 4 or 8 bytes.
template <typename T>
struct LaneOf {
  using type = uint32_t;
};
template <>
struct LaneOf<uint64_t> {
  using type = uint64_t;
};
template <>
struct LaneOf<int64_t> {
  using type = uint64_t;
};
template <>
struct LaneOf<float> {
  using type = float;
};
template <>
struct LaneOf<double> {
  using type = double;
};

// Integers narrower than a lane are stored with the lane's upper bits clear.
template <typename T>
inline typename LaneOf<T>::type ToLane(T value) {
  if constexpr (std::is_integral_v<T>) {
    return static_cast<std::make_unsigned_t<T>>(value);
  } else {
    return value;
  }
}

template <typename T, auto Function>
Step Unary(Warp& warp, const Op& op) {
  using Lane = typename LaneOf<T>::type;
  Lane* d = warp.Lanes<Lane>(op.d);
  const Lane* a = warp.Lanes<Lane>(op.a);
  ForLanes(warp.exec, [&](int lane) { d[lane] = ToLane<T>(Function(static_cast<T>(a[lane]))); });
  return Step::kNext;
}

template <typename T, auto Function>
Step Binary(Warp& warp, const Op& op) {
  using Lane = typename LaneOf<T>::type;
  Lane* d = warp.Lanes<Lane>(op.d);
  const Lane* a = warp.Lanes<Lane>(op.a);
  const Lane* b = warp.Lanes<Lane>(op.b);
  ForLanes(warp.exec, [&](int lane) {
    d[lane] = ToLane<T>(Function(static_cast<T>(a[lane]), static_cast<T>(b[lane])));
  });
  return Step::kNext;
}

template <typename T, auto Function>
Step Ternary(Warp& warp, const Op& op) {
  using Lane = typename LaneOf<T>::type;
  Lane* d = warp.Lanes<Lane>(op.d);
  const Lane* a = warp.Lanes<Lane>(op.a);
  const Lane* b = warp.Lanes<Lane>(op.b);
  const Lane* c = warp.Lanes<Lane>(op.c);
  ForLanes(warp.exec, [&](int lane) {
    d[lane] = ToLane<T>(
        Function(static_cast<T>(a[lane]), static_cast<T>(b[lane]), static_cast<T>(c[lane])));
  });
  return Step::kNext;
}

// d (Wide) = Function(a, b) of Narrow.
template <typename Wide, typename Narrow, auto Function>
Step Widening(Warp& warp, const Op& op) {
  using WideLane = typename LaneOf<Wide>::type;
  using NarrowLane = typename LaneOf<Narrow>::type;
  WideLane* d = warp.Lanes<WideLane>(op.d);
  const NarrowLane* a = warp.Lanes<NarrowLane>(op.a);
  const NarrowLane* b = warp.Lanes<NarrowLane>(op.b);
  ForLanes(warp.exec, [&](int lane) {
    d[lane] = ToLane<Wide>(Function(static_cast<Narrow>(a[lane]), static_cast<Narrow>(b[lane])));
  });
  return Step::kNext;
}

}  // namespace jax_fa4::emulator
