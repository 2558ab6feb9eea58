// Kernels of attention over clusters. A warp works on one (batch, token, head) triple: first each lane
// computes the logit of one member, then all lanes together sum the members' rows, a channel or a few
// a lane. Nothing is written by two warps, and all sums have a fixed order. Nothing here knows of
// PyTorch's tensors, so that tests/csrc can run the kernels without a GPU.
#pragma once

#include <cmath>
#include <limits>

#include "../common/cluster_attention_sizes.h"
#include "../common/offset_features.h"
#include "../common/rows.h"
#include "warp.cuh"

namespace segcore::cluster_attention {

// Channels that a warp sums at once, in registers of its lanes. With more channels a head it computes
// the weights again for each part.
constexpr int kChannelsOfLane = 4, kPart = kChannelsOfLane * kWarp;

template <typename T>
struct Inputs {
  using A = Accumulator<T>;

  ClusterAttentionSizes sizes;
  A scale;
  Rows<const T> q, k, v;
  const int32_t* clusters;                             // (batch, tokens, clusters_per_token)
  const A* positions;                                  // (batch, tokens, 2)
  const A *pos_weight, *pos_bias, *blank_k, *blank_v;  // heads slow

  C10_HOST_DEVICE int64_t triples() const { return sizes.batch * sizes.tokens * sizes.heads; }
  C10_HOST_DEVICE int64_t slots() const { return sizes.clusters_per_token * sizes.cluster_size; }
};

// Further inputs of the backward.
template <typename T>
struct BackwardInputs {
  Inputs<T> forward;
  Rows<const T> grad_output;
  const int32_t* indices;  // (batch, tokens * clusters_per_token)
  const int64_t* offsets;  // (batch, clusters + 1)
};

// Results of the gradients of queries for those of keys, values and parameters, of one triple.
template <typename A>
struct TokenSums {
  A log_sum;                        // of the exponentials of all logits
  A mean;                           // of the gradients of the weights, under the weights
  A blank_weight, blank_grad;       // of the blank token: its weight, the gradient of its logit
  A position[kOffsetFeatures + 1];  // gradients of pos_weight and pos_bias
};

// The (batch, token, head) triple and lane of a thread.
struct Place : Group<kWarp> {
  int64_t triple, n, i, a;

  __device__ Place(const ClusterAttentionSizes& s, int64_t triples) : Group<kWarp>(triples) {
    triple = item;
    n = triple / s.heads / s.tokens;
    i = triple / s.heads % s.tokens;
    a = triple % s.heads;
  }
};

// The token in a slot of the neighborhood of token i; -1 for an empty one.
template <typename T>
__device__ inline int64_t member(const Inputs<T>& in, int64_t n, int64_t i, int64_t slot) {
  const ClusterAttentionSizes& s = in.sizes;
  if (slot >= in.slots()) return -1;
  const int64_t entry = (n * s.tokens + i) * s.clusters_per_token + slot / s.cluster_size;
  const int64_t cluster = in.clusters[entry];
  const int64_t token = cluster * s.cluster_size + slot % s.cluster_size;
  return cluster >= 0 && token < s.tokens ? token : -1;
}

template <int kVector, typename T, typename U>
__device__ inline Accumulator<T> dot(const T* a, const U* b, int64_t channels) {
  using A = Accumulator<T>;
  A sum = 0;
  for (int64_t c = 0; c < channels; c += kVector) {
    A left[kVector], right[kVector];
    load(a + c, left);
    load(b + c, right);
    for (int j = 0; j < kVector; ++j) sum += left[j] * right[j];
  }
  return sum;
}

template <typename T>
__device__ inline OffsetFeatures<Accumulator<T>> features(
    const Inputs<T>& in, int64_t n, int64_t i, int64_t j) {
  const Accumulator<T>* image = in.positions + n * in.sizes.tokens * 2;
  return offset_features(image[2 * j] - image[2 * i], image[2 * j + 1] - image[2 * i + 1]);
}

template <int kVector, typename T>
__device__ inline Accumulator<T> logit(
    const Inputs<T>& in,
    const OffsetFeatures<Accumulator<T>>& f,
    int64_t n,
    int64_t i,
    int64_t j,
    int64_t a) {
  const Accumulator<T>* weight = in.pos_weight + a * kOffsetFeatures;
  return in.scale * dot<kVector>(in.q.row(n, i, a), in.k.row(n, j, a), in.sizes.channels) +
      weight[0] * f.x + weight[1] * f.y + weight[2] * f.distance + weight[3] * f.sine +
      weight[4] * f.cosine + in.pos_bias[a];
}

template <typename T>
__device__ inline Accumulator<T> blank_logit(const Inputs<T>& in, int64_t n, int64_t i, int64_t a) {
  const int64_t channels = in.sizes.channels;
  return in.scale * dot<1>(in.q.row(n, i, a), in.blank_k + a * channels, channels);
}

// sum[r] += weight of each lane times the row of its token, channels from `start` on.
template <typename T, typename A>
__device__ inline void add_rows(
    const Rows<const T>& rows,
    int64_t n,
    int64_t a,
    int64_t token,
    A weight,
    int count,
    int64_t start,
    int lane,
    int64_t channels,
    A (&sum)[kChannelsOfLane]) {
  for (int l = 0; l < count; ++l) {
    const A factor = from_lane<kWarp>(weight, l);
    const int64_t source = from_lane<kWarp>(token, l);
    if (source < 0) continue;
    const T* row = rows.row(n, source, a);
    for (int r = 0; r < kChannelsOfLane; ++r) {
      const int64_t c = start + r * kWarp + lane;
      if (c < channels) sum[r] += factor * static_cast<A>(row[c]);
    }
  }
}

template <typename T, int kVector>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Place p(in.sizes, in.triples());
  const int64_t channels = in.sizes.channels;
  const A blank = blank_logit(in, p.n, p.i, p.a);
  for (int64_t start = 0; start < channels; start += kPart) {
    A largest = blank, sum = 1, part[kChannelsOfLane] = {};
    for (int r = 0; r < kChannelsOfLane; ++r) {
      const int64_t c = start + r * kWarp + p.lane;
      if (c < channels) part[r] = in.blank_v[p.a * channels + c];
    }
    for (int64_t first = 0; first < in.slots(); first += kWarp) {
      const int64_t j = member(in, p.n, p.i, first + p.lane);
      A lane_logit = -std::numeric_limits<A>::infinity();
      if (j >= 0) lane_logit = logit<kVector>(in, features(in, p.n, p.i, j), p.n, p.i, j, p.a);
      const A before = largest;
      largest = max_of_lanes<kWarp>(lane_logit > largest ? lane_logit : largest);
      const A shrink = std::exp(before - largest);
      const A weight = j >= 0 ? std::exp(lane_logit - largest) : A(0);
      sum = sum * shrink + sum_of_lanes<kWarp>(weight);
      for (A& number : part) number *= shrink;
      const int count = chunk_size<kWarp>(in.slots(), first);
      add_rows(in.v, p.n, p.a, j, weight, count, start, p.lane, channels, part);
    }
    for (int r = 0; r < kChannelsOfLane; ++r) {
      const int64_t c = start + r * kWarp + p.lane;
      if (p.active && c < channels) output[p.triple * channels + c] = static_cast<T>(part[r] / sum);
    }
  }
}

// The softmax of a triple: its statistics, and the weight and gradient of the blank token.
template <int kVector, typename T>
__device__ inline TokenSums<Accumulator<T>> softmax_backward(
    const BackwardInputs<T>& all, const Place& p) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const int64_t channels = in.sizes.channels;
  const T* go = all.grad_output.row(p.n, p.i, p.a);
  const A blank = blank_logit(in, p.n, p.i, p.a);
  const A blank_product = dot<1>(go, in.blank_v + p.a * channels, channels);
  A largest = blank, sum = 1, products = blank_product;
  for (int64_t first = 0; first < in.slots(); first += kWarp) {
    const int64_t j = member(in, p.n, p.i, first + p.lane);
    A lane_logit = -std::numeric_limits<A>::infinity(), product = 0;
    if (j >= 0) {
      lane_logit = logit<kVector>(in, features(in, p.n, p.i, j), p.n, p.i, j, p.a);
      product = dot<kVector>(go, in.v.row(p.n, j, p.a), channels);
    }
    const A before = largest;
    largest = max_of_lanes<kWarp>(lane_logit > largest ? lane_logit : largest);
    const A shrink = std::exp(before - largest);
    const A weight = j >= 0 ? std::exp(lane_logit - largest) : A(0);
    sum = sum * shrink + sum_of_lanes<kWarp>(weight);
    products = products * shrink + sum_of_lanes<kWarp>(weight * product);
  }
  TokenSums<A> result = {};
  result.log_sum = largest + std::log(sum);
  result.mean = products / sum;
  result.blank_weight = std::exp(blank - largest) / sum;
  result.blank_grad = result.blank_weight * (blank_product - result.mean);
  return result;
}

template <typename T, int kVector>
__global__ void backward_queries_kernel(
    const BackwardInputs<T> all, T* grad_q, TokenSums<Accumulator<T>>* sums) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const Place p(in.sizes, in.triples());
  const int64_t channels = in.sizes.channels;
  const T* go = all.grad_output.row(p.n, p.i, p.a);
  TokenSums<A> token_sums = softmax_backward<kVector>(all, p);
  for (int64_t start = 0; start < channels; start += kPart) {
    A part[kChannelsOfLane] = {};
    for (int r = 0; r < kChannelsOfLane; ++r) {
      const int64_t c = start + r * kWarp + p.lane;
      if (c < channels) part[r] = token_sums.blank_grad * in.blank_k[p.a * channels + c];
    }
    for (int64_t first = 0; first < in.slots(); first += kWarp) {
      const int64_t j = member(in, p.n, p.i, first + p.lane);
      A grad = 0;
      if (j >= 0) {
        const OffsetFeatures<A> f = features(in, p.n, p.i, j);
        const A weight = std::exp(logit<kVector>(in, f, p.n, p.i, j, p.a) - token_sums.log_sum);
        grad = weight * (dot<kVector>(go, in.v.row(p.n, j, p.a), channels) - token_sums.mean);
        if (start == 0) {
          const A factors[] = {f.x, f.y, f.distance, f.sine, f.cosine, A(1)};
          for (int k = 0; k <= kOffsetFeatures; ++k) token_sums.position[k] += grad * factors[k];
        }
      }
      const int count = chunk_size<kWarp>(in.slots(), first);
      add_rows(in.k, p.n, p.a, j, grad, count, start, p.lane, channels, part);
    }
    for (int r = 0; r < kChannelsOfLane; ++r) {
      const int64_t c = start + r * kWarp + p.lane;
      if (p.active && c < channels) {
        grad_q[p.triple * channels + c] = static_cast<T>(in.scale * part[r]);
      }
    }
  }
  for (A& number : token_sums.position) number = sum_of_lanes<kWarp>(number);
  if (p.active && p.lane == 0) sums[p.triple] = token_sums;
}

// Here the token of a warp is a key, and each lane has one of the tokens that see its cluster.
template <typename T, int kVector>
__global__ void backward_keys_kernel(
    const BackwardInputs<T> all, const TokenSums<Accumulator<T>>* sums, T* grad_k, T* grad_v) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const ClusterAttentionSizes& s = in.sizes;
  const Place p(s, in.triples());
  const int64_t cluster = p.i / s.cluster_size;
  const int64_t* offset = all.offsets + p.n * (s.clusters() + 1) + cluster;
  const int32_t* queries = all.indices + p.n * s.tokens * s.clusters_per_token;
  for (int64_t start = 0; start < s.channels; start += kPart) {
    A part_k[kChannelsOfLane] = {}, part_v[kChannelsOfLane] = {};
    for (int64_t first = offset[0]; first < offset[1]; first += kWarp) {
      const int64_t query = first + p.lane < offset[1] ? queries[first + p.lane] : -1;
      A weight = 0, grad = 0;
      if (query >= 0) {
        const TokenSums<A>& query_sums = sums[(p.n * s.tokens + query) * s.heads + p.a];
        const OffsetFeatures<A> f = features(in, p.n, query, p.i);
        const T* go = all.grad_output.row(p.n, query, p.a);
        weight = std::exp(logit<kVector>(in, f, p.n, query, p.i, p.a) - query_sums.log_sum);
        grad = weight * (dot<kVector>(go, in.v.row(p.n, p.i, p.a), s.channels) - query_sums.mean);
      }
      const int count = chunk_size<kWarp>(offset[1], first);
      add_rows(in.q, p.n, p.a, query, grad, count, start, p.lane, s.channels, part_k);
      add_rows(all.grad_output, p.n, p.a, query, weight, count, start, p.lane, s.channels, part_v);
    }
    for (int r = 0; r < kChannelsOfLane; ++r) {
      const int64_t c = start + r * kWarp + p.lane;
      if (!p.active || c >= s.channels) continue;
      grad_k[p.triple * s.channels + c] = static_cast<T>(in.scale * part_k[r]);
      grad_v[p.triple * s.channels + c] = static_cast<T>(part_v[r]);
    }
  }
}

// Numbers of one head among the gradients of the parameters.
C10_HOST_DEVICE inline int64_t parameters_of_head(const ClusterAttentionSizes& s) {
  return kOffsetFeatures + 1 + 2 * s.channels;
}

// A warp adds up one number of the gradients of the parameters over all tokens.
template <typename T>
__global__ void backward_parameters_kernel(
    const BackwardInputs<T> all,
    const TokenSums<Accumulator<T>>* sums,
    Accumulator<T>* grad_pos_weight,
    Accumulator<T>* grad_pos_bias,
    Accumulator<T>* grad_blank_k,
    Accumulator<T>* grad_blank_v) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const ClusterAttentionSizes& s = in.sizes;
  const int64_t of_head = parameters_of_head(s);
  const Group<kWarp> group(s.heads * of_head);
  const int64_t a = group.item / of_head, which = group.item % of_head;
  const int64_t c = (which - kOffsetFeatures - 1) % (s.channels > 0 ? s.channels : 1);
  const bool of_position = which <= kOffsetFeatures;
  const bool of_key = !of_position && which <= kOffsetFeatures + s.channels;
  double sum = 0;
  for (int64_t item = group.lane; item < s.batch * s.tokens; item += kWarp) {
    const TokenSums<A>& token_sums = sums[item * s.heads + a];
    const int64_t n = item / s.tokens, i = item % s.tokens;
    if (of_position) {
      sum += token_sums.position[which];
    } else if (of_key) {
      sum += token_sums.blank_grad * static_cast<A>(in.q.row(n, i, a)[c]);
    } else {
      sum += token_sums.blank_weight * static_cast<A>(all.grad_output.row(n, i, a)[c]);
    }
  }
  sum = sum_of_lanes<kWarp>(sum);
  if (!group.active || group.lane != 0) return;
  if (which < kOffsetFeatures) {
    grad_pos_weight[a * kOffsetFeatures + which] = static_cast<A>(sum);
  } else if (of_position) {
    grad_pos_bias[a] = static_cast<A>(sum);
  } else if (of_key) {
    grad_blank_k[a * s.channels + c] = static_cast<A>(in.scale * sum);
  } else {
    grad_blank_v[a * s.channels + c] = static_cast<A>(sum);
  }
}

}  // namespace segcore::cluster_attention
