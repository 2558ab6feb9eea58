// Kernels of the merging of neighborhoods. kLanes lanes work on one query: each computes the weights of
// one member and shares them with the others, each of which reads kVector neighboring channels. The
// gradients of the tokens are summed by kLanes lanes a token. Nothing is written by two groups, and all
// sums have a fixed order.
#pragma once

#include "../common/gelu.h"
#include "../common/neighborhood_merge_sizes.h"
#include "../common/offset_features.h"
#include "inverse_lists.cuh"
#include "warp.cuh"

namespace segcore::neighborhood_merge {

template <typename T>
struct Inputs {
  using A = Accumulator<T>;

  NeighborhoodMergeSizes sizes;
  const T* features;       // (batch, tokens, channels)
  const A* positions;      // (batch, tokens, 2)
  const A* centers;        // (batch, queries, 2)
  const int64_t* members;  // (batch, queries, members)
  const bool* mask;        // (batch, queries, members) or null
  const A* importance;     // (batch, tokens) or null
  const A *linear_weight, *linear_bias, *norm_weight, *norm_bias;

  C10_HOST_DEVICE int64_t queries() const { return sizes.batch * sizes.queries; }
  C10_HOST_DEVICE int64_t tokens() const { return sizes.batch * sizes.tokens; }
};

template <typename T>
__device__ inline MergeParameters<Accumulator<T>> load_net(const Inputs<T>& in) {
  MergeParameters<Accumulator<T>> net;
  for (int r = 0; r < kMergeWeights; ++r) {
    for (int f = 0; f < kOffsetFeatures; ++f) {
      net.matrix[r][f] = in.linear_weight[r * kOffsetFeatures + f];
    }
    net.bias[r] = in.linear_bias[r];
    net.scale[r] = in.norm_weight[r];
    net.shift[r] = in.norm_bias[r];
  }
  return net;
}

// A member as the lane that prepares it knows it.
template <typename A>
struct Member {
  int64_t entry, token;  // of the lists, of the tokens of the batch; token -1 if it takes no part
  A importance, features[kOffsetFeatures];
  MergeHidden<A> hidden;
  Gelu<A> activation[kMergeWeights];

  __device__ A weight(int r) const { return activation[r].value * importance; }
};

// Member `number` of a query; one that takes no part if there are not as many.
template <typename T, typename A>
__device__ inline Member<A> prepare_member(
    const Inputs<T>& in, const MergeParameters<A>& net, int64_t query, int64_t number) {
  const NeighborhoodMergeSizes& s = in.sizes;
  Member<A> member = {};
  member.entry = query * s.members + number;
  member.token = -1;
  if (number >= s.members || (in.mask != nullptr && !in.mask[member.entry])) return member;
  const int64_t image_token = in.members[member.entry];
  if (image_token < 0 || image_token >= s.tokens) return member;
  const int64_t token = query / s.queries * s.tokens + image_token;
  const OffsetFeatures<A> f = offset_features(
      in.positions[2 * token] - in.centers[2 * query],
      in.positions[2 * token + 1] - in.centers[2 * query + 1]);
  member.token = token;
  member.importance = in.importance == nullptr ? A(1) : in.importance[token];
  member.features[0] = f.x;
  member.features[1] = f.y;
  member.features[2] = f.distance;
  member.features[3] = f.sine;
  member.features[4] = f.cosine;
  member.hidden = merge_hidden(net, member.features);
  for (int r = 0; r < kMergeWeights; ++r) member.activation[r] = gelu(member.hidden.output[r]);
  return member;
}

template <typename T, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const MergeParameters<A> net = load_net(in);
  const int64_t channels = in.sizes.channels, members = in.sizes.members;
  output += group.item * kMergeWeights * channels;
  for (int64_t start = 0; start < channels; start += kVector * kLanes) {
    const int64_t channel = start + group.lane * kVector;
    const bool reads = channel < channels;
    A sum[kMergeWeights][kVector] = {};
    for (int64_t first = 0; first < members; first += kLanes) {
      const Member<A> member = prepare_member(in, net, group.item, first + group.lane);
      for (int i = 0; i < chunk_size<kLanes>(members, first); ++i) {
        const int64_t token = from_lane<kLanes>(member.token, i);
        A weight[kMergeWeights];
        for (int r = 0; r < kMergeWeights; ++r) weight[r] = from_lane<kLanes>(member.weight(r), i);
        if (token < 0 || !reads) continue;
        A row[kVector];
        load(in.features + token * channels + channel, row);
        for (int r = 0; r < kMergeWeights; ++r) {
          for (int j = 0; j < kVector; ++j) sum[r][j] += weight[r] * row[j];
        }
      }
    }
    if (!group.active || !reads) continue;
    for (int r = 0; r < kMergeWeights; ++r) store(output + r * channels + channel, sum[r]);
  }
}

// Gradients of the weight net, from one query or a lane of it.
template <typename A>
struct ParameterSums {
  A matrix[kMergeWeights][kOffsetFeatures] = {};
  A bias[kMergeWeights] = {}, scale[kMergeWeights] = {}, shift[kMergeWeights] = {};

  __device__ void add(
      const MergeParameters<A>& net,
      const Member<A>& member,
      const A (&grad_output)[kMergeWeights]) {
    A linear[kMergeWeights];
    merge_hidden_backward(net, member.hidden, grad_output, linear);
    for (int r = 0; r < kMergeWeights; ++r) {
      for (int f = 0; f < kOffsetFeatures; ++f) matrix[r][f] += linear[r] * member.features[f];
      bias[r] += linear[r];
      scale[r] += grad_output[r] * member.hidden.normalized[r];
      shift[r] += grad_output[r];
    }
  }
};

// Results of the weight net, for each entry of the lists of members, that the gradients of the tokens
// need: the weights, and what the entry adds to the gradient of the importance. Entries that take no
// part are left as they are.
template <typename A>
struct MemberBuffers {
  A* weights;          // (entries, kMergeWeights)
  A* grad_importance;  // (entries)
};

// Sums the values of all lanes; one of them writes the totals one after the other.
template <int kLanes, int kCount, typename A>
__device__ inline void write_totals(
    const Group<kLanes>& group, const A (&values)[kCount], double*& totals) {
  for (int i = 0; i < kCount; ++i) {
    const A total = sum_of_lanes<kLanes>(values[i]);
    if (group.active && group.lane == 0) totals[i] = total;
  }
  totals += kCount;
}

// grad_net (queries, MergeParameters::kCount): matrix, bias, scale, shift.
template <typename T, int kVector, int kLanes>
__global__ void net_gradients_kernel(
    const Inputs<T> in,
    const T* grad_output,
    MemberBuffers<Accumulator<T>> buffers,
    double* grad_net) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const MergeParameters<A> net = load_net(in);
  const int64_t channels = in.sizes.channels, members = in.sizes.members;
  const T* grad = grad_output + group.item * kMergeWeights * channels;
  ParameterSums<A> sums;
  for (int64_t first = 0; first < members; first += kLanes) {
    const Member<A> member = prepare_member(in, net, group.item, first + group.lane);
    A member_dots[kMergeWeights] = {};
    for (int i = 0; i < chunk_size<kLanes>(members, first); ++i) {
      const int64_t token = from_lane<kLanes>(member.token, i);
      for (int r = 0; r < kMergeWeights; ++r) {
        A dot = 0;
        if (token >= 0) {
          const T* row = in.features + token * channels;
          dot = dot_of_lane<kVector, kLanes>(grad + r * channels, row, channels, group.lane);
        }
        dot = sum_of_lanes<kLanes>(dot);
        if (group.lane == i) member_dots[r] = dot;
      }
    }
    if (member.token < 0 || !group.active) continue;
    A grad_importance = 0, grad_hidden[kMergeWeights];
    for (int r = 0; r < kMergeWeights; ++r) {
      buffers.weights[member.entry * kMergeWeights + r] = member.weight(r);
      grad_importance += member.activation[r].value * member_dots[r];
      grad_hidden[r] = member.importance * member.activation[r].slope * member_dots[r];
    }
    buffers.grad_importance[member.entry] = grad_importance;
    sums.add(net, member, grad_hidden);
  }
  grad_net += group.item * MergeParameters<A>::kCount;
  for (const auto& row : sums.matrix) write_totals(group, row, grad_net);
  write_totals(group, sums.bias, grad_net);
  write_totals(group, sums.scale, grad_net);
  write_totals(group, sums.shift, grad_net);
}

// grad_importance may be null.
template <typename T, int kVector, int kLanes>
__global__ void token_gradients_kernel(
    const Inputs<T> in,
    const T* grad_output,
    MemberBuffers<Accumulator<T>> buffers,
    const InverseLists lists,
    T* grad_features,
    Accumulator<T>* grad_importance) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.tokens());
  const int64_t channels = in.sizes.channels;
  const int64_t begin = lists.offsets[group.item], end = lists.offsets[group.item + 1];
  for (int64_t c = group.lane * kVector; group.active && c < channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (int64_t i = begin; i < end; ++i) {
      const int64_t entry = lists.entries[i];
      const T* rows = grad_output + entry / in.sizes.members * kMergeWeights * channels + c;
      for (int r = 0; r < kMergeWeights; ++r) {
        add_scaled(buffers.weights[entry * kMergeWeights + r], rows + r * channels, sum);
      }
    }
    store(grad_features + group.item * channels + c, sum);
  }
  if (grad_importance == nullptr) return;
  A sum = 0;
  for (int64_t i = begin + group.lane; i < end; i += kLanes) {
    sum += buffers.grad_importance[lists.entries[i]];
  }
  sum = sum_of_lanes<kLanes>(sum);
  if (group.active && group.lane == 0) grad_importance[group.item] = sum;
}

}  // namespace segcore::neighborhood_merge
