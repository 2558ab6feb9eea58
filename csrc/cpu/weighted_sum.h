// Sums over rows of channels.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace segcore {

// kVectors * kLanes channels, summed in registers.
template <int kVectors, typename T>
SEGCORE_INLINE void weighted_sum_of_block(
    const T* rows, int64_t stride, const int64_t* row, const T* weight, int64_t count, T* output) {
  // Two sums in turn: one alone would wait for its own last addition.
  Lanes<T> even[kVectors] = {}, odd[kVectors] = {};
  int64_t i = 0;
  for (; i + 2 <= count; i += 2) {
    const T *a = rows + row[i] * stride, *b = rows + row[i + 1] * stride;
    for (int j = 0; j < kVectors; ++j) {
      even[j] += weight[i] * lanes(a + j * kLanes);
      odd[j] += weight[i + 1] * lanes(b + j * kLanes);
    }
  }
  if (i < count) {
    const T* a = rows + row[i] * stride;
    for (int j = 0; j < kVectors; ++j) even[j] += weight[i] * lanes(a + j * kLanes);
  }
  for (int j = 0; j < kVectors; ++j) lanes(output + j * kLanes) = even[j] + odd[j];
}

// output[c] = sum over i of weight[i] * rows[row[i] * channels + c]
template <typename T>
SEGCORE_INLINE void weighted_sum(
    const T* rows,
    int64_t channels,
    const int64_t* row,
    const T* weight,
    int64_t count,
    T* output) {
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
    weighted_sum_of_block<4>(rows + c, channels, row, weight, count, output + c);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    weighted_sum_of_block<1>(rows + c, channels, row, weight, count, output + c);
  }
  for (; c < channels; ++c) {
    T sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += weight[i] * rows[row[i] * channels + c];
    output[c] = sum;
  }
}

}  // namespace segcore
