// Eight numbers at once: one or several registers, whatever the instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace segcore {

constexpr int64_t kLanes = 8;

// Arithmetic on it is lane by lane. It has the alignment of one number, so that it can be read from
// anywhere.
template <typename T>
struct LanesOf {
  typedef T type __attribute__((vector_size(kLanes * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Lanes = typename LanesOf<T>::type;

// The vector, or the number, that starts at a place: loops can be written once for both.
template <typename V, typename T>
SEGCORE_INLINE const V& vector_at(const T* data) {
  return *reinterpret_cast<const V*>(data);
}
template <typename V, typename T>
SEGCORE_INLINE V& vector_at(T* data) {
  return *reinterpret_cast<V*>(data);
}

template <typename T>
SEGCORE_INLINE const Lanes<T>& lanes(const T* data) {
  return vector_at<Lanes<T>>(data);
}
template <typename T>
SEGCORE_INLINE Lanes<T>& lanes(T* data) {
  return vector_at<Lanes<T>>(data);
}

// target (kLanes columns, target_stride) = source (kLanes rows, source_stride), transposed.
template <typename T>
SEGCORE_INLINE void transpose_lanes(
    const T* source, int64_t source_stride, T* target, int64_t target_stride) {
  static_assert(kLanes == 8);
  Lanes<T> x[kLanes], y[kLanes];
  for (int i = 0; i < kLanes; ++i) x[i] = lanes(source + i * source_stride);
  // Each step exchanges numbers of vectors that are 1, 2 and 4 apart.
  for (int i = 0; i < kLanes; i += 2) {
    y[i] = __builtin_shufflevector(x[i], x[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    y[i + 1] = __builtin_shufflevector(x[i], x[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = __builtin_shufflevector(y[i + j], y[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      x[i + 2 * j + 1] =
          __builtin_shufflevector(y[i + j], y[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int i = 0; i < 4; ++i) {
    lanes(target + i * target_stride) =
        __builtin_shufflevector(x[i], x[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    lanes(target + (i + 4) * target_stride) =
        __builtin_shufflevector(x[i], x[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// exp(x) for x <= 0 or little above, in a form that loops over x vectorize with. At most 2 units in
// the last place off in float32, where results below 2^-126 are 0.
SEGCORE_INLINE double exp_of_negative(double x) { return std::exp(x); }

// 2^n e^rest by Taylor's series, for |rest| <= ln 2 / 2 and n in the lowest bits of `shifted`.
SEGCORE_INLINE float exp_of_parts(float shifted, float rest) {
  float sum = 1.0f / 5040;
  sum = sum * rest + 1.0f / 720;
  sum = sum * rest + 1.0f / 120;
  sum = sum * rest + 1.0f / 24;
  sum = sum * rest + 1.0f / 6;
  sum = sum * rest + 0.5f;
  sum = sum * rest + 1;
  sum = sum * rest + 1;
  uint32_t bits;
  std::memcpy(&bits, &shifted, sizeof(bits));
  bits = (bits << 23) + (127u << 23);
  float power;
  std::memcpy(&power, &bits, sizeof(power));
  return sum * power;
}

SEGCORE_INLINE float exp_of_negative(float x) {
  // x = n ln 2 + rest; adding the shift leaves n in the lowest bits.
  constexpr float kShift = 12582912.0f, kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f, kSmallest = -87.33f;
  const float shifted = x * kLog2E + kShift;
  const float n = shifted - kShift;
  const float rest = x - n * kLn2High - n * kLn2Low;
  return x < kSmallest ? 0.0f : exp_of_parts(shifted, rest);
}

}  // namespace segcore
