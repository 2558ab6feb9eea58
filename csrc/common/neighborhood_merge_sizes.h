// Sizes of the merging of neighborhoods, and its arithmetic for one member (AutoFocusFormer, section
// 3.3).
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include <torch/headeronly/macros/Macros.h>

#include "offset_features.h"
#include "unroll.h"

namespace segcore {

constexpr int kMergeWeights = 4;  // of a member

struct NeighborhoodMergeSizes {
  int64_t batch, tokens, channels;  // features (batch, tokens, channels)
  int64_t queries, members;         // members (batch, queries, members)

  std::array<int64_t, 3> output() const { return {batch, queries, kMergeWeights * channels}; }
};

// The weight net: a linear layer and a layer norm.
template <typename T>
struct MergeParameters {
  static constexpr T kEpsilon = static_cast<T>(1e-5);
  static constexpr int kCount = kMergeWeights * (kOffsetFeatures + 3);

  T matrix[kMergeWeights][kOffsetFeatures];
  T bias[kMergeWeights], scale[kMergeWeights], shift[kMergeWeights];
};

// The layers for one member, before GELU.
template <typename T>
struct MergeHidden {
  T normalized[kMergeWeights], output[kMergeWeights];
  T inverse_deviation;
};

template <typename T>
C10_HOST_DEVICE inline MergeHidden<T> merge_hidden(
    const MergeParameters<T>& net, const T (&features)[kOffsetFeatures]) {
  MergeHidden<T> hidden;
  T mean = 0, variance = 0;
  SEGCORE_UNROLL
  for (int r = 0; r < kMergeWeights; ++r) {
    T sum = net.bias[r];
    SEGCORE_UNROLL
    for (int f = 0; f < kOffsetFeatures; ++f) sum += net.matrix[r][f] * features[f];
    hidden.normalized[r] = sum;
    mean += sum / kMergeWeights;
  }
  SEGCORE_UNROLL
  for (int r = 0; r < kMergeWeights; ++r) {
    hidden.normalized[r] -= mean;
    variance += hidden.normalized[r] * hidden.normalized[r] / kMergeWeights;
  }
  hidden.inverse_deviation = 1 / std::sqrt(variance + MergeParameters<T>::kEpsilon);
  SEGCORE_UNROLL
  for (int r = 0; r < kMergeWeights; ++r) {
    hidden.normalized[r] *= hidden.inverse_deviation;
    hidden.output[r] = hidden.normalized[r] * net.scale[r] + net.shift[r];
  }
  return hidden;
}

// Gradients of the results of the linear layer, from those of the output of the layer norm.
template <typename T>
C10_HOST_DEVICE inline void merge_hidden_backward(
    const MergeParameters<T>& net,
    const MergeHidden<T>& hidden,
    const T (&grad_output)[kMergeWeights],
    T (&grad_linear)[kMergeWeights]) {
  T mean = 0, product = 0;
  SEGCORE_UNROLL
  for (int r = 0; r < kMergeWeights; ++r) {
    grad_linear[r] = grad_output[r] * net.scale[r];
    mean += grad_linear[r] / kMergeWeights;
    product += grad_linear[r] * hidden.normalized[r] / kMergeWeights;
  }
  SEGCORE_UNROLL
  for (int r = 0; r < kMergeWeights; ++r) {
    grad_linear[r] =
        (grad_linear[r] - mean - hidden.normalized[r] * product) * hidden.inverse_deviation;
  }
}

}  // namespace segcore
