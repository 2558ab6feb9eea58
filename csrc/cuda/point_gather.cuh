// Kernels of weighted sums of tokens. kLanes lanes work on one query, or on one token for its gradient,
// each on kVector neighboring channels. Nothing is written by two groups, and all sums have a fixed
// order.
//
// Offset: integer type of offsets in all tensors, of 32 bits where sizes allow.
#pragma once

#include <algorithm>

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
  int64_t largest_offset() const {
    const int64_t rows = std::max(queries(), tokens());
    return std::max(rows * sizes.channels, queries() * sizes.neighbors);
  }
};

// Features of the tokens of an image.
template <typename T, typename Offset>
struct ImageRows {
  const T* features;
  const int64_t* indices;
  Offset tokens, channels;

  __device__ ImageRows(const Inputs<T>& in, Offset query)
      : indices(in.indices),
        tokens(static_cast<Offset>(in.sizes.tokens)),
        channels(static_cast<Offset>(in.sizes.channels)) {
    features = in.features + query / static_cast<Offset>(in.sizes.queries) * tokens * channels;
  }
  // Those of the token in an entry of the lists of a query; null if it is out of range.
  __device__ const T* operator[](Offset entry) const {
    const int64_t token = indices[entry];
    if (token < 0 || token >= tokens) return nullptr;
    return features + static_cast<Offset>(token) * channels;
  }
};

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  if (!group.active) return;
  const Offset query = static_cast<Offset>(group.item);
  const ImageRows<T, Offset> rows(in, query);
  const Offset neighbors = static_cast<Offset>(in.sizes.neighbors), begin = query * neighbors;
  for (Offset c = group.lane * kVector; c < rows.channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (Offset entry = begin; entry < begin + neighbors; ++entry) {
      const T* row = rows[entry];
      if (row != nullptr) add_scaled(in.weights[entry], row + c, sum);
    }
    store(output + query * rows.channels + c, sum);
  }
}

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void weight_gradients_kernel(
    const Inputs<T> in, const T* grad_output, Accumulator<T>* grad_weights) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const Offset query = static_cast<Offset>(group.item);
  const ImageRows<T, Offset> rows(in, query);
  const Offset neighbors = static_cast<Offset>(in.sizes.neighbors), begin = query * neighbors;
  const T* grad = grad_output + query * rows.channels;
  for (Offset entry = begin; entry < begin + neighbors; ++entry) {
    const T* row = rows[entry];
    A dot = 0;
    if (row != nullptr) dot = dot_of_lane<kVector, kLanes>(grad, row, rows.channels, group.lane);
    dot = sum_of_lanes<kLanes>(dot);
    if (group.active && group.lane == 0) grad_weights[entry] = dot;
  }
}

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void feature_gradients_kernel(
    const Inputs<T> in, const T* grad_output, const InverseLists lists, T* grad_features) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.tokens());
  if (!group.active) return;
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset neighbors = static_cast<Offset>(in.sizes.neighbors);
  const Offset token = static_cast<Offset>(group.item);
  const Offset begin = static_cast<Offset>(lists.offsets[token]);
  const Offset end = static_cast<Offset>(lists.offsets[token + 1]);
  for (Offset c = group.lane * kVector; c < channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (Offset i = begin; i < end; ++i) {
      const Offset entry = static_cast<Offset>(lists.entries[i]), query = entry / neighbors;
      add_scaled(in.weights[entry], grad_output + query * channels + c, sum);
    }
    store(grad_features + token * channels + c, sum);
  }
}

}  // namespace segcore::point_gather
