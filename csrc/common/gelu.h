// GELU (exact: x times the cumulative normal distribution) and its derivative.
#pragma once

#include <cmath>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

template <typename T>
struct Gelu {
  T value, slope;
};

// `below` is the cumulative normal distribution at -|x|, `bell` is exp(-x * x / 2).
template <typename T>
C10_HOST_DEVICE inline Gelu<T> gelu_of(T x, T below, T bell) {
  constexpr T kInverseRootOf2Pi = static_cast<T>(0.39894228040143267794);
  const T cumulative = x < 0 ? below : 1 - below;
  return {x * cumulative, cumulative + x * kInverseRootOf2Pi * bell};
}

template <typename T>
C10_HOST_DEVICE inline Gelu<T> gelu(T x) {
  constexpr T kRootOfHalf = static_cast<T>(0.70710678118654752440);
  const T bell = std::exp(-x * x / 2);
  return gelu_of(x, std::erfc(std::fabs(x) * kRootOfHalf) / 2, bell);
}

}  // namespace segcore
