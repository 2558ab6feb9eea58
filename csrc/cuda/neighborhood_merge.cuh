// Kernels of the merging of neighborhoods. kLanes lanes work on one query: each computes the weights of
// one member and shares them with the others, each of which reads kVector neighboring channels. The
// gradients of the tokens are summed by kLanes lanes a token. Nothing is written by two groups, and all
// sums have a fixed order.
//
// Offset: integer type of offsets in all tensors, of 32 bits where sizes allow.
#pragma once

#include <algorithm>

#include "../common/gelu.h"
#include "../common/neighborhood_merge_sizes.h"
#include "inverse_lists.cuh"
#include "offset_features.cuh"
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
  int64_t largest_offset() const {
    const int64_t of_query = kMergeWeights * std::max({sizes.channels, sizes.members, int64_t{1}});
    return std::max(queries() * of_query, tokens() * std::max<int64_t>(sizes.channels, 2));
  }
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
template <typename A, typename Offset>
struct Member {
  Offset entry, token;  // of the lists, of the tokens of the batch; token -1 if it takes no part
  A importance, features[kOffsetFeatures];
  MergeHidden<A> hidden;
  Gelu<A> activation[kMergeWeights];

  __device__ A weight(int r) const { return activation[r].value * importance; }
};

// A query, and the first token of its image, among those of the batch.
template <typename Offset>
struct Query {
  Offset index, first_token;

  __device__ Query(const NeighborhoodMergeSizes& s, int64_t item)
      : index(static_cast<Offset>(item)),
        first_token(index / static_cast<Offset>(s.queries) * static_cast<Offset>(s.tokens)) {}
};

// Member `number` of a query; one that takes no part if there are not as many.
template <typename T, typename Offset, typename A>
__device__ inline Member<A, Offset> prepare_member(
    const Inputs<T>& in, const MergeParameters<A>& net, const Query<Offset>& query, Offset number) {
  const Offset members = static_cast<Offset>(in.sizes.members);
  Member<A, Offset> member = {};
  member.entry = query.index * members + number;
  member.token = -1;
  if (number >= members || (in.mask != nullptr && !in.mask[member.entry])) return member;
  const int64_t image_token = in.members[member.entry];
  if (image_token < 0 || image_token >= in.sizes.tokens) return member;
  const Offset token = query.first_token + static_cast<Offset>(image_token);
  const OffsetFeatures<A> f = device_offset_features(
      in.positions[2 * token] - in.centers[2 * query.index],
      in.positions[2 * token + 1] - in.centers[2 * query.index + 1]);
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

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const MergeParameters<A> net = load_net(in);
  const Query<Offset> query(in.sizes, group.item);
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset members = static_cast<Offset>(in.sizes.members);
  output += query.index * kMergeWeights * channels;
  for (Offset start = 0; start < channels; start += kVector * kLanes) {
    const Offset channel = start + group.lane * kVector;
    const bool reads = channel < channels;
    A sum[kMergeWeights][kVector] = {};
    for (Offset first = 0; first < members; first += kLanes) {
      const Member<A, Offset> member = prepare_member(in, net, query, first + group.lane);
      for (int i = 0; i < chunk_size<kLanes>(members, first); ++i) {
        const Offset token = from_lane<kLanes>(member.token, i);
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

  template <typename Offset>
  __device__ void add(
      const MergeParameters<A>& net,
      const Member<A, Offset>& member,
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
template <typename T, typename Offset, int kVector, int kLanes>
__global__ void net_gradients_kernel(
    const Inputs<T> in,
    const T* grad_output,
    MemberBuffers<Accumulator<T>> buffers,
    double* grad_net) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.queries());
  const MergeParameters<A> net = load_net(in);
  const Query<Offset> query(in.sizes, group.item);
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset members = static_cast<Offset>(in.sizes.members);
  const T* grad = grad_output + query.index * kMergeWeights * channels;
  ParameterSums<A> sums;
  for (Offset first = 0; first < members; first += kLanes) {
    const Member<A, Offset> member = prepare_member(in, net, query, first + group.lane);
    A member_dots[kMergeWeights] = {};
    for (int i = 0; i < chunk_size<kLanes>(members, first); ++i) {
      const Offset token = from_lane<kLanes>(member.token, i);
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
template <typename T, typename Offset, int kVector, int kLanes>
__global__ void token_gradients_kernel(
    const Inputs<T> in,
    const T* grad_output,
    MemberBuffers<Accumulator<T>> buffers,
    const InverseLists lists,
    T* grad_features,
    Accumulator<T>* grad_importance) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.tokens());
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset members = static_cast<Offset>(in.sizes.members);
  const Offset begin = static_cast<Offset>(lists.offsets[group.item]);
  const Offset end = static_cast<Offset>(lists.offsets[group.item + 1]);
  for (Offset c = group.lane * kVector; group.active && c < channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (Offset i = begin; i < end; ++i) {
      const Offset entry = static_cast<Offset>(lists.entries[i]);
      const T* rows = grad_output + entry / members * kMergeWeights * channels + c;
      for (int r = 0; r < kMergeWeights; ++r) {
        add_scaled(buffers.weights[entry * kMergeWeights + r], rows + r * channels, sum);
      }
    }
    store(grad_features + group.item * channels + c, sum);
  }
  if (grad_importance == nullptr) return;
  A sum = 0;
  for (Offset i = begin + group.lane; i < end; i += kLanes) {
    sum += buffers.grad_importance[lists.entries[i]];
  }
  sum = sum_of_lanes<kLanes>(sum);
  if (group.active && group.lane == 0) grad_importance[group.item] = sum;
}

}  // namespace segcore::neighborhood_merge
