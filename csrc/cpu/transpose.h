// Rows of numbers to rows, or to columns, of another type.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace segcore {

// target[c] = factor * source[c]
template <typename V, typename T>
SEGCORE_INLINE void copy_row(
    const V* __restrict source, int64_t count, T factor, T* __restrict target) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) target[c] = factor * T(source[c]);
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
    y[i] = shuffled<0, 8, 1, 9, 4, 12, 5, 13>(x[i], x[i + 1]);
    y[i + 1] = shuffled<2, 10, 3, 11, 6, 14, 7, 15>(x[i], x[i + 1]);
  }
  for (int i = 0; i < kLanes; i += 4) {
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = shuffled<0, 1, 8, 9, 4, 5, 12, 13>(y[i + j], y[i + j + 2]);
      x[i + 2 * j + 1] = shuffled<2, 3, 10, 11, 6, 7, 14, 15>(y[i + j], y[i + j + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    lanes(target + i * target_stride) = shuffled<0, 1, 2, 3, 8, 9, 10, 11>(x[i], x[i + 4]);
    lanes(target + (i + 4) * target_stride) = shuffled<4, 5, 6, 7, 12, 13, 14, 15>(x[i], x[i + 4]);
  }
}

// target[c, t] = sources[t][offset + c] for kLanes rows and as many columns.
template <typename V, typename T>
SEGCORE_INLINE void transpose_block(
    const V* const* sources, int64_t offset, T* __restrict target, int64_t row) {
  T block[kLanes][kLanes];
  for (int t = 0; t < kLanes; ++t) copy_row(sources[t] + offset, kLanes, T(1), block[t]);
  transpose_lanes(block[0], kLanes, target, row);
}

}  // namespace segcore
