// Offset features on a GPU: in float32 by one reciprocal root, within 2 units in the last place, instead of a
// root and a quotient.
#pragma once

#include <cmath>
#include <type_traits>

#include "../common/offset_features.h"

namespace segcore {

template <typename T>
__device__ inline OffsetFeatures<T> device_offset_features(T x, T y) {
  if constexpr (std::is_same_v<T, float>) {
    const float square = x * x + y * y;
    const float inverse = square > 0 ? rsqrtf(square) : 0;
    return {x, y, square * inverse, y * inverse, x * inverse};
  } else {
    return offset_features(x, y);
  }
}

}  // namespace segcore
