#pragma once

#include <cstdint>

#include "simd.h"

namespace segcore {

template <typename T>
SEGCORE_INLINE T dot(const T* a, const T* b, int64_t count) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t c = 0; c < count; ++c) sum += a[c] * b[c];
  return sum;
}

}  // namespace segcore
