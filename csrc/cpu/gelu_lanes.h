// GELU in a form that loops over x vectorize with.
#pragma once

#include "../common/gelu.h"
#include "lanes.h"

namespace segcore {

SEGCORE_INLINE Gelu<double> gelu_lane(double x) { return gelu(x); }

// The cumulative normal distribution at -|x| is exp(-x * x / 2) times a polynomial in
// 1 / (1 + 0.34 |x|); fitted to 3e-8 of the exact value for |x| up to 14.
SEGCORE_INLINE Gelu<float> gelu_lane(float x) {
  const float t = 1 / (1 + 0.34f * std::fabs(x));
  float sum = -0.026120672f;
  sum = sum * t + 0.139500335f;
  sum = sum * t - 0.273134261f;
  sum = sum * t + 0.20218417f;
  sum = sum * t - 0.044719331f;
  sum = sum * t + 0.11535947f;
  sum = sum * t + 0.115197591f;
  sum = sum * t + 0.136112198f;
  sum = sum * t + 0.135620505f;
  const float bell = exp_of_negative(-0.5f * x * x);
  return gelu_of(x, bell * sum * t, bell);
}

}  // namespace segcore
