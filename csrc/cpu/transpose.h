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

// Transposes the numbers of kLanes rows: blocks of 4, of 2 and of 1 change places across the diagonal.
template <typename T>
SEGCORE_INLINE void transpose(Lanes<T>* rows) {
  for (int i = 0; i < kLanes; ++i) {
    if (i & 4) continue;
    const Lanes<T> a = rows[i], b = rows[i + 4];
    rows[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    rows[i + 4] = __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
  }
  for (int i = 0; i < kLanes; ++i) {
    if (i & 2) continue;
    const Lanes<T> a = rows[i], b = rows[i + 2];
    rows[i] = __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
    rows[i + 2] = __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
  }
  for (int i = 0; i < kLanes; i += 2) {
    const Lanes<T> a = rows[i], b = rows[i + 1];
    rows[i] = __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
    rows[i + 1] = __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
  }
}

// target[c, t] = sources[t][offset + c] for kLanes rows and as many columns.
template <typename V, typename T>
SEGCORE_INLINE void transpose_block(
    const V* const* sources, int64_t offset, T* __restrict target, int64_t row) {
  T block[kLanes][kLanes];
  for (int t = 0; t < kLanes; ++t) copy_row(sources[t] + offset, kLanes, T(1), block[t]);
  Lanes<T> rows[kLanes];
  for (int t = 0; t < kLanes; ++t) rows[t] = lanes(block[t]);
  transpose<T>(rows);
  for (int c = 0; c < kLanes; ++c) lanes(target + c * row) = rows[c];
}

}  // namespace segcore
