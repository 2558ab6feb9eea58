// Powers of positive numbers in a form that loops over them vectorize with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../common/inverse_distance.h"
#include "lanes.h"
#include "simd.h"

namespace segcore {

template <typename T>
class Exponent;

template <>
class Exponent<double> {
 public:
  explicit Exponent(double exponent) : exponent_(exponent) {}

  SEGCORE_INLINE Power<double> operator()(double x) const {
    return {std::pow(x, exponent_), std::log2(x)};
  }

 private:
  double exponent_;
};

// x = 2^n m with m near 1, so that x^p = 2^(p n + p log2 m). The exponent p is cut in two, so that
// the product of n with the upper part is exact: a few units in the last place, however large x^p
// is. Below 2^-126 the result is 0, above 2^127 it stays there.
template <>
class Exponent<float> {
 public:
  explicit Exponent(float exponent) : exponent_(exponent) {
    uint32_t bits;
    std::memcpy(&bits, &exponent, sizeof(bits));
    bits &= 0xfffff000u;
    std::memcpy(&upper_, &bits, sizeof(upper_));
    lower_ = exponent - upper_;
  }

  SEGCORE_INLINE Power<float> operator()(float x) const {
    constexpr uint32_t kRootOfHalf = 0x3f3504f3;  // bits
    constexpr float kLn2 = 0.69314718f, kTwoOverLn2 = 2.88539008f, kShift = 12582912.0f;
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof(bits));
    const int32_t whole = static_cast<int32_t>(bits - kRootOfHalf) >> 23;
    const uint32_t mantissa_bits = bits - (static_cast<uint32_t>(whole) << 23);
    float mantissa;
    std::memcpy(&mantissa, &mantissa_bits, sizeof(mantissa));
    // The logarithm of the mantissa by the series of the inverse hyperbolic tangent.
    const float s = (mantissa - 1) / (mantissa + 1), square = s * s;
    float series = 1.0f / 9;
    series = series * square + 1.0f / 7;
    series = series * square + 1.0f / 5;
    series = series * square + 1.0f / 3;
    const float fraction = kTwoOverLn2 * (s + s * square * series);

    const float n = static_cast<float>(whole);
    const float high = upper_ * n, low = lower_ * n + exponent_ * fraction;
    const float y = high + low;
    const float shifted = y + kShift;  // its lowest bits are y rounded
    const float rest = ((high - (shifted - kShift)) + low) * kLn2;
    constexpr float kSmallest = -126, kLargest = 127, kMax = 1.7014118e38f;
    float raised = exp_of_parts(shifted, rest);
    raised = y < kSmallest ? 0.0f : raised;
    raised = y > kLargest ? kMax : raised;
    raised = x == x ? raised : x;
    return {raised, n + fraction};
  }

 private:
  float exponent_, upper_, lower_;
};

}  // namespace segcore
