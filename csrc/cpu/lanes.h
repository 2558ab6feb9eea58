// Vectors of numbers: one or several registers, whatever the instruction set.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace segcore {

constexpr int64_t kLanes = 8;

// Arithmetic on a vector is lane by lane. It has the alignment of one number, so that it can be read
// from anywhere.
template <typename T, int64_t kBytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(kBytes), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Lanes = typename VectorOf<T, kLanes * sizeof(T)>::type;

// A register of 512 bits, or as many smaller ones as make it up.
template <typename T>
using Wide = typename VectorOf<T, 64>::type;
template <typename T>
constexpr int64_t kWide = 64 / sizeof(T);

// One of 256 bits.
template <typename T>
using Narrow = typename VectorOf<T, 32>::type;
template <typename T>
constexpr int64_t kNarrow = 32 / sizeof(T);

// Whether registers have 512 bits: of vectors that do not fit into one, GCC makes slow code.
inline bool has_wide_registers() {
#if defined(SEGCORE_HAS_CLONES) || defined(__SANITIZE_ADDRESS__)
  return __builtin_cpu_supports("avx512f");
#elif defined(__AVX512F__)
  return true;
#else
  return false;
#endif
}

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

// The numbers of x, followed by those of y, at kIndices.
template <int... kIndices, typename V>
SEGCORE_INLINE V shuffled(const V& x, const V& y) {
  // GCC has __builtin_shufflevector from version 12 on.
  return __builtin_shuffle(x, y, decltype(x < y){kIndices...});
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
