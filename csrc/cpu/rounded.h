// Numbers in the type of values, in a form that loops over them vectorize with.
#pragma once

#include <cstdint>
#include <cstring>

#include <torch/headeronly/util/BFloat16.h>

#include "simd.h"

namespace segcore {

template <typename V, typename T>
SEGCORE_INLINE V rounded(T x) {
  return static_cast<V>(x);
}

// To the nearest, ties to even; the type's own conversion has a branch.
template <>
SEGCORE_INLINE torch::headeronly::BFloat16 rounded(float x) {
  using torch::headeronly::BFloat16;
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  const uint32_t nearest = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return BFloat16(static_cast<uint16_t>(x == x ? nearest : 0x7fc0), BFloat16::from_bits());
}

}  // namespace segcore
