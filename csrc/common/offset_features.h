// Relative position features of tokens in the plane (AutoFocusFormer, section 3.2).
#pragma once

#include <cmath>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

constexpr int kOffsetFeatures = 5;

template <typename T>
struct OffsetFeatures {
  T x, y, distance, sine, cosine;
};

// Features of the offset (x, y); sine and cosine are 0 where the offset is 0. Without branches, so
// that loops over offsets vectorize.
template <typename T>
C10_HOST_DEVICE inline OffsetFeatures<T> offset_features(T x, T y) {
  const T distance = std::sqrt(x * x + y * y);
  const T inverse = 1 / (distance > 0 ? distance : T(1));
  return {x, y, distance, y * inverse, x * inverse};
}

}  // namespace segcore
