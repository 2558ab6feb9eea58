// Kernels of weighted sums of tokens. kLanes lanes work on one query, or on one token for its gradient,
// each on kVector neighboring channels. Nothing is written by two groups, and all sums have a fixed
// order.
#pragma once

#include "../common/point_gather_sizes.h"
#include "inverse_lists.cuh"
#include "warp.cuh"

namespace segcore::point_gather {

template <typename T>
struct Inputs {
  using A = Accumulator<T>;

  PointGatherSizes sizes;
  const T* features;       // (batch, tokens, channels)
  const int64_t* indices;  // (batch, queries, neighbors)
  const A* weights;        // (batch, queries, neighbors)

  C10_HOST_DEVICE int64_t queries() const { return sizes.batch * sizes.queries; }
  C10_HOST_DEVICE int64_t tokens() const { return sizes.batch * sizes.tokens; }
  // Features of the token in an entry of the lists of a query; null if it is out of range.
  __device__ const T* row(int64_t query, int64_t entry) const {
    const int64_t token = indices[entry];
    if (token < 0 || token >= sizes.tokens) return nullptr;
    return features + (query / sizes.queries * sizes.tokens + token) * sizes.channels;
  }
};

template <typename T, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const int64_t channels = in.sizes.channels, neighbors = in.sizes.neighbors;
  if (!group.active) return;
  for (int64_t c = group.lane * kVector; c < channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (int64_t entry = group.item * neighbors; entry < (group.item + 1) * neighbors; ++entry) {
      const T* row = in.row(group.item, entry);
      if (row != nullptr) add_scaled(in.weights[entry], row + c, sum);
    }
    store(output + group.item * channels + c, sum);
  }
}

template <typename T, int kVector, int kLanes>
__global__ void weight_gradients_kernel(
    const Inputs<T> in, const T* grad_output, Accumulator<T>* grad_weights) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const int64_t channels = in.sizes.channels, neighbors = in.sizes.neighbors;
  const T* grad = grad_output + group.item * channels;
  for (int64_t entry = group.item * neighbors; entry < (group.item + 1) * neighbors; ++entry) {
    const T* row = in.row(group.item, entry);
    A dot = 0;
    if (row != nullptr) dot = dot_of_lane<kVector, kLanes>(grad, row, channels, group.lane);
    dot = sum_of_lanes<kLanes>(dot);
    if (group.active && group.lane == 0) grad_weights[entry] = dot;
  }
}

template <typename T, int kVector, int kLanes>
__global__ void feature_gradients_kernel(
    const Inputs<T> in, const T* grad_output, const InverseLists lists, T* grad_features) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.tokens());
  const int64_t channels = in.sizes.channels;
  if (!group.active) return;
  for (int64_t c = group.lane * kVector; c < channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (int64_t i = lists.offsets[group.item]; i < lists.offsets[group.item + 1]; ++i) {
      const int64_t entry = lists.entries[i], query = entry / in.sizes.neighbors;
      add_scaled(in.weights[entry], grad_output + query * channels + c, sum);
    }
    store(grad_features + group.item * channels + c, sum);
  }
}

}  // namespace segcore::point_gather
