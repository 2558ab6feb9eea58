// Inverse-distance weights (AutoFocusFormer, supplement): 1 / (D ^ power + epsilon), D the squared
// distance. An Exponent raises a positive number to the power: its result has `raised` and the
// `logarithm` to the base 2.
#pragma once

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

// Keeps the inverse of a distance of 0 finite.
constexpr double kInverseDistanceEpsilon = 1e-11;

template <typename T>
struct Power {
  T raised, logarithm;
};

// Before the division by the sum; 0 where there is no token, which has a negative distance.
template <typename Exponent, typename T>
C10_HOST_DEVICE inline T inverse_distance(const Exponent& exponent, T distance) {
  const T raised = distance == 0 ? T(0) : exponent(distance).raised;
  const T inverse = 1 / (raised + static_cast<T>(kInverseDistanceEpsilon));
  return distance < 0 ? T(0) : inverse;
}

// Derivatives of a weight by the power and by the offset, as a fraction of `coefficient`; the rest of
// the gradient of a sample is how much its row differs from the interpolation.
template <typename T>
struct InverseDistanceSlopes {
  T power, offset;  // the latter to be multiplied by the offset from the token to the location
};

// A token at the location, or none, adds nothing.
template <typename Exponent, typename T>
C10_HOST_DEVICE inline InverseDistanceSlopes<T> inverse_distance_slopes(
    const Exponent& exponent, T power, T coefficient, T squared_distance) {
  constexpr T kLn2 = static_cast<T>(0.69314718055994530942);
  const bool counts = squared_distance > 0;
  const T distance = counts ? squared_distance : T(1);
  const Power<T> p = exponent(distance);
  // Derivative by the logarithm of distance ^ power.
  const T share = p.raised / (p.raised + static_cast<T>(kInverseDistanceEpsilon));
  const T slope = counts ? -coefficient * share : T(0);
  return {slope * p.logarithm * kLn2, 2 * power * slope / distance};
}

}  // namespace segcore
