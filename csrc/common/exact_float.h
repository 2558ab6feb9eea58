// Float32 arithmetic whose rounding decides an order, and so has to be the same everywhere: every
// operation is rounded, nothing is fused into a multiply-add. To be included before all else.
#pragma once

// -ffp-contract=off for one file. (nvcc has no such pragma: exact_product takes its place.)
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include <cmath>
#include <cstdint>
#include <cstring>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

// A product that is rounded before it is added to anything.
C10_HOST_DEVICE inline float exact_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

C10_HOST_DEVICE inline float squared_length(float dx, float dy) {
  return exact_product(dx, dx) + exact_product(dy, dy);
}

// The bits of a float that is not negative: ordered as the floats are.
C10_HOST_DEVICE inline uint32_t ordered_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// A key that orders by a float that is not negative, and by an index where the floats are equal.
C10_HOST_DEVICE inline uint64_t order_key(float value, uint32_t index) {
  return static_cast<uint64_t>(ordered_bits(value)) << 32 | index;
}

C10_HOST_DEVICE inline float float_of_key(uint64_t key) {
  const uint32_t bits = static_cast<uint32_t>(key >> 32);
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

C10_HOST_DEVICE inline uint32_t index_of_key(uint64_t key) {
  return static_cast<uint32_t>(key);
}

}  // namespace segcore
