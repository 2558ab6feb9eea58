// Kernels of weighted sums of tokens. kLanes lanes work on one query, or on one token for its gradient,
// each on kVector neighbouring channels. Nothing is written by two groups, and all sums have a fixed
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
  const int64_t* indices;  // (batch, queries, neighbours)
  const A* weights;        // (batch, queries, neighbours)

  C10_HOST_DEVICE int64_t queries() const { return sizes.batch * sizes.queries; }
  C10_HOST_DEVICE int64_t tokens() const { return sizes.batch * sizes.tokens; }
  // Features of the token that a query of the batch has in a place; null if it is out of range.
  __device__ const T* row(int64_t query, int64_t place) const {
    const int64_t token = indices[place];
    if (token < 0 || token >= sizes.tokens) return nullptr;
    return features + (query / sizes.queries * sizes.tokens + token) * sizes.channels;
  }
};

template <typename T, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const int64_t channels = in.sizes.channels, neighbours = in.sizes.neighbours;
  if (!group.active) return;
  for (int64_t c = group.lane * kVector; c < channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (int64_t place = group.item * neighbours; place < (group.item + 1) * neighbours; ++place) {
      const T* row = in.row(group.item, place);
      if (row != nullptr) add_scaled(in.weights[place], row + c, sum);
    }
    store(output + group.item * channels + c, sum);
  }
}

template <typename T, int kVector, int kLanes>
__global__ void weight_gradients_kernel(
    const Inputs<T> in, const T* grad_output, Accumulator<T>* grad_weights) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const int64_t channels = in.sizes.channels, neighbours = in.sizes.neighbours;
  const T* grad = grad_output + group.item * channels;
  for (int64_t place = group.item * neighbours; place < (group.item + 1) * neighbours; ++place) {
    const T* row = in.row(group.item, place);
    A dot = 0;
    if (row != nullptr) dot = dot_of_lane<kVector, kLanes>(grad, row, channels, group.lane);
    dot = sum_of_lanes<kLanes>(dot);
    if (group.active && group.lane == 0) grad_weights[place] = dot;
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
    for (int64_t i = lists.first[group.item]; i < lists.first[group.item + 1]; ++i) {
      const int64_t place = lists.place[i], query = place / in.sizes.neighbours;
      add_scaled(in.weights[place], grad_output + query * channels + c, sum);
    }
    store(grad_features + group.item * channels + c, sum);
  }
}

}  // namespace segcore::point_gather
