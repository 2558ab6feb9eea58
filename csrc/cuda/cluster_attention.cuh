// Kernels of attention over clusters for all sizes and types; cluster_attention_tiles.cuh has those by
// tensor cores. A warp works on one token and head, the warps of a block on neighboring tokens, which see
// about the same clusters and so find keys and values in the cache. Each lane has one member at a time;
// kLanes lanes read its row together, kVector neighboring channels each, and every lane gets the product of
// its own member. Nothing is written by two warps, and all sums have a fixed order. Nothing here knows of
// PyTorch's tensors, so that tests/csrc can run the kernels without a GPU.
//
// Offset: integer type of offsets within an image, of 32 bits where sizes allow.
#pragma once

#include <cmath>
#include <limits>

#include "../common/cluster_attention_sizes.h"
#include "../common/rows.h"
#include "../common/unroll.h"
#include "offset_features.cuh"
#include "warp.cuh"

namespace segcore::cluster_attention {

template <typename T>
struct Inputs {
  using A = Accumulator<T>;

  ClusterAttentionSizes sizes;
  A scale;
  Rows<const T> q, k, v;
  const int32_t* clusters;                             // (batch, tokens, clusters_per_token)
  const A* positions;                                  // (batch, tokens, 2)
  const A *pos_weight, *pos_bias, *blank_k, *blank_v;  // heads slow

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

// Results of the gradients of queries for those of keys, values and parameters, of one token and head.
template <typename A>
struct TokenSums {
  A log_sum;                        // of the exponentials of all logits
  A mean;                           // of the gradients of the weights, under the weights
  A blank_weight, blank_grad;       // of the blank token: its weight, the gradient of its logit
  A position[kOffsetFeatures + 1];  // gradients of pos_weight and pos_bias
};

// Rows of one image and head.
template <typename T, typename Offset>
struct HeadRows {
  const T* data;
  Offset stride;

  __device__ HeadRows(const Rows<const T>& rows, int64_t n, int64_t a)
      : data(rows.row(n, 0, a)), stride(static_cast<Offset>(rows.token)) {}
  __device__ const T* operator[](Offset token) const { return data + token * stride; }
};

// Blocks of the kernels with a warp for each token and head.
C10_HOST_DEVICE inline int64_t blocks(const ClusterAttentionSizes& s) {
  return s.batch * ((s.tokens + kWarpsOfBlock - 1) / kWarpsOfBlock) * s.heads;
}

// The token and head of a warp, and the members of a neighborhood that its lanes have: kLanes lanes are a
// group, and `first` and the next kWarp - 1 members are dealt out to the groups in turn.
template <typename Offset, int kLanes>
struct Place {
  static constexpr int kGroups = kWarp / kLanes;

  int64_t n, a;
  Offset i;
  bool active;
  int lane, group;  // lane of the group

  __device__ explicit Place(const ClusterAttentionSizes& s) {
    const unsigned heads = static_cast<unsigned>(s.heads);
    const unsigned tiles = static_cast<unsigned>((s.tokens + kWarpsOfBlock - 1) / kWarpsOfBlock);
    a = blockIdx.x % heads;
    n = blockIdx.x / heads / tiles;
    i = static_cast<Offset>(blockIdx.x / heads % tiles) * kWarpsOfBlock + warp_of_block();
    active = i < s.tokens;
    lane = lane_of_warp() % kLanes;
    group = lane_of_warp() / kLanes;
  }
  // Of the token and head among those of the batch.
  __device__ int64_t triple(const ClusterAttentionSizes& s) const {
    return (n * s.tokens + i) * s.heads + a;
  }
  __device__ Offset member(Offset first) const { return first + lane * kGroups + group; }
  // Members of a group among `count` from `first` on.
  __device__ static int steps(Offset first, Offset count) {
    const Offset rest = count - first;
    return rest >= kWarp ? kLanes : static_cast<int>((rest + kGroups - 1) / kGroups);
  }
};

// The tokens in the slots of a neighborhood; -1 for an empty one.
template <typename Offset>
struct Members {
  const int32_t* clusters;  // of the token
  Offset slots, cluster_size, count, tokens;

  template <typename T>
  __device__ Members(const Inputs<T>& in, int64_t n, Offset i)
      : clusters(in.clusters + (n * in.sizes.tokens + i) * in.sizes.clusters_per_token),
        slots(static_cast<Offset>(in.slots())),
        cluster_size(static_cast<Offset>(in.sizes.cluster_size)),
        count(static_cast<Offset>(in.sizes.clusters())),
        tokens(static_cast<Offset>(in.sizes.tokens)) {}

  __device__ Offset operator[](Offset slot) const {
    if (slot >= slots) return -1;
    const Offset cluster = clusters[slot / cluster_size];
    if (cluster < 0 || cluster >= count) return -1;
    const Offset token = cluster * cluster_size + slot % cluster_size;
    return token < tokens ? token : -1;
  }
};

// The product of row `x` with the row of the member of each lane, anything where it has none (-1).
// `steps`: members of a group.
template <int kVector, int kLanes, typename T, typename Offset>
__device__ inline Accumulator<T> dots_of_members(
    const T* x,
    const HeadRows<T, Offset>& rows,
    Offset member,
    int steps,
    Offset channels,
    int lane) {
  using A = Accumulator<T>;
  const T* row[kLanes];  // token 0 for no member: a branch for each row would cost more
  SEGCORE_UNROLL
  for (int i = 0; i < kLanes; ++i) row[i] = rows[from_lane<kLanes>(member < 0 ? 0 : member, i)];
  A partial[kLanes] = {};
  for (Offset c = lane * kVector; c < channels; c += kVector * kLanes) {
    A left[kVector];
    load(x + c, left);
    SEGCORE_UNROLL
    for (int i = 0; i < kLanes; ++i) {
      if (i >= steps) continue;
      A right[kVector];
      load(row[i] + c, right);
      for (int j = 0; j < kVector; ++j) partial[i] += left[j] * right[j];
    }
  }
  return spread_sums<kLanes>(partial, lane);
}

// sum += weight of each member of the group times its row, kVector channels from `c` on.
template <int kLanes, typename T, typename Offset, int kVector>
__device__ inline void add_members(
    const HeadRows<T, Offset>& rows,
    Offset member,
    Accumulator<T> weight,
    int steps,
    Offset c,
    bool reads,
    Accumulator<T> (&sum)[kVector]) {
  for (int i = 0; i < steps; ++i) {
    const Offset token = from_lane<kLanes>(member, i);
    const Accumulator<T> factor = from_lane<kLanes>(weight, i);
    if (token >= 0 && reads) add_scaled(factor, rows[token] + c, sum);
  }
}

// Sums over the groups of a warp, lane by lane.
template <int kLanes, typename A, int kVector>
__device__ inline void add_groups(A (&sum)[kVector]) {
  for (int distance = kLanes; distance < kWarp; distance *= 2) {
    for (A& number : sum) number += __shfl_xor_sync(kWholeWarp, number, distance);
  }
}

// The product of two rows, by all lanes of a warp.
template <typename T, typename U>
__device__ inline Accumulator<T> dot(const T* a, const U* b, int64_t channels) {
  return sum_of_lanes<kWarp>(dot_of_lane<1, kWarp>(a, b, channels, lane_of_warp()));
}

// The part of a logit that depends on the offset from token i to token j.
template <typename A>
struct PositionBias {
  const A *positions, *weight;  // of the image, of the head
  A bias;

  template <typename T>
  __device__ PositionBias(const Inputs<T>& in, int64_t n, int64_t a)
      : positions(in.positions + n * in.sizes.tokens * 2),
        weight(in.pos_weight + a * kOffsetFeatures),
        bias(in.pos_bias[a]) {}

  template <typename Offset>
  __device__ OffsetFeatures<A> features(Offset i, Offset j) const {
    return device_offset_features(
        positions[2 * j] - positions[2 * i], positions[2 * j + 1] - positions[2 * i + 1]);
  }
  __device__ A operator()(const OffsetFeatures<A>& f) const {
    return weight[0] * f.x + weight[1] * f.y + weight[2] * f.distance + weight[3] * f.sine +
        weight[4] * f.cosine + bias;
  }
};

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Place<Offset, kLanes> p(in.sizes);
  if (!p.active) return;
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Members<Offset> members(in, p.n, p.i);
  const HeadRows<T, Offset> q(in.q, p.n, p.a), k(in.k, p.n, p.a), v(in.v, p.n, p.a);
  const PositionBias<A> bias(in, p.n, p.a);
  const A* blank_v = in.blank_v + p.a * channels;
  const A blank = in.scale * dot(q[p.i], in.blank_k + p.a * channels, channels);
  for (Offset start = 0; start < channels; start += kVector * kLanes) {
    const Offset c = start + p.lane * kVector;
    const bool reads = c < channels;
    A largest = blank, lane_sum = 0, blank_weight = 1, part[kVector] = {};
    for (Offset first = 0; first < members.slots; first += kWarp) {
      const Offset j = members[p.member(first)];
      const int steps = p.steps(first, members.slots);
      const A product = dots_of_members<kVector, kLanes>(q[p.i], k, j, steps, channels, p.lane);
      A logit = -std::numeric_limits<A>::infinity();
      if (j >= 0) logit = in.scale * product + bias(bias.features(p.i, j));
      const A before = largest;
      largest = max_of_lanes<kWarp>(logit > largest ? logit : largest);
      const A shrink = std::exp(before - largest);
      const A weight = j >= 0 ? std::exp(logit - largest) : A(0);
      lane_sum = lane_sum * shrink + weight;
      blank_weight *= shrink;
      for (A& number : part) number *= shrink;
      add_members<kLanes>(v, j, weight, steps, c, reads, part);
    }
    const A sum = blank_weight + sum_of_lanes<kWarp>(lane_sum);
    add_groups<kLanes>(part);
    if (p.group != 0 || !reads) continue;
    for (int r = 0; r < kVector; ++r) part[r] = (part[r] + blank_weight * blank_v[c + r]) / sum;
    store(output + p.triple(in.sizes) * channels + c, part);
  }
}

// The member of a lane in the backward.
template <typename A, typename Offset>
struct LaneMember {
  Offset token;
  A logit, product;  // product of the upstream gradient with the value
};

// The softmax over members that kLanes lanes have, some of each at a time; the sums are those of the lane
// until total().
template <typename A, int kLanes>
struct SoftmaxSums {
  A largest, sum = 0, products = 0;  // largest: at first the logit of the blank token

  // -inf is the logit of no member.
  template <int kCount>
  __device__ void add(const A (&logits)[kCount], const A (&product)[kCount]) {
    const A before = largest;
    A most = logits[0];
    for (int i = 1; i < kCount; ++i) most = logits[i] > most ? logits[i] : most;
    most = max_of_lanes<kLanes>(most);
    largest = most > before ? most : before;
    const A shrink = std::exp(before - largest);
    sum *= shrink;
    products *= shrink;
    for (int i = 0; i < kCount; ++i) {
      const A weight = std::exp(logits[i] - largest);
      sum += weight;
      products += weight * product[i];
    }
  }
  // With the blank token.
  __device__ TokenSums<A> total(A blank_logit, A blank_product) const {
    TokenSums<A> result = {};
    const A blank = std::exp(blank_logit - largest);
    const A total = blank + sum_of_lanes<kLanes>(sum);
    result.log_sum = largest + std::log(total);
    result.mean = (blank * blank_product + sum_of_lanes<kLanes>(products)) / total;
    result.blank_weight = blank / total;
    result.blank_grad = result.blank_weight * (blank_product - result.mean);
    return result;
  }
};

// sums += grad * (features, 1)
template <typename A>
__device__ inline void add_features(
    A grad, const OffsetFeatures<A>& f, A (&sums)[kOffsetFeatures + 1]) {
  const A factors[] = {f.x, f.y, f.distance, f.sine, f.cosine, A(1)};
  for (int r = 0; r <= kOffsetFeatures; ++r) sums[r] += grad * factors[r];
}

// Chunks of members whose logits and products stay in registers between the two passes over them; of
// further ones they are computed again.
constexpr int kKeptChunks = 2;

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void backward_queries_kernel(
    const BackwardInputs<T> all, T* grad_q, TokenSums<Accumulator<T>>* sums) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const Place<Offset, kLanes> p(in.sizes);
  if (!p.active) return;
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Members<Offset> members(in, p.n, p.i);
  const HeadRows<T, Offset> q(in.q, p.n, p.a), k(in.k, p.n, p.a), v(in.v, p.n, p.a);
  const T* go = all.grad_output.row(p.n, p.i, p.a);
  const PositionBias<A> bias(in, p.n, p.a);
  const auto lane_member = [&](Offset first) -> LaneMember<A, Offset> {
    const Offset j = members[p.member(first)];
    const int steps = p.steps(first, members.slots);
    const A dot_k = dots_of_members<kVector, kLanes>(q[p.i], k, j, steps, channels, p.lane);
    const A dot_v = dots_of_members<kVector, kLanes>(go, v, j, steps, channels, p.lane);
    if (j < 0) return {j, -std::numeric_limits<A>::infinity(), 0};
    return {j, in.scale * dot_k + bias(bias.features(p.i, j)), dot_v};
  };

  const A* blank_k = in.blank_k + p.a * channels;
  const A blank = in.scale * dot(q[p.i], blank_k, channels);
  SoftmaxSums<A, kWarp> softmax = {blank};
  LaneMember<A, Offset> kept[kKeptChunks];
  SEGCORE_UNROLL
  for (int chunk = 0; chunk < kKeptChunks; ++chunk) {
    if (chunk * kWarp >= members.slots) break;
    kept[chunk] = lane_member(chunk * kWarp);
    softmax.add({kept[chunk].logit}, {kept[chunk].product});
  }
  for (Offset first = kKeptChunks * kWarp; first < members.slots; first += kWarp) {
    const LaneMember<A, Offset> member = lane_member(first);
    softmax.add({member.logit}, {member.product});
  }
  const A blank_product = dot(go, in.blank_v + p.a * channels, channels);
  TokenSums<A> token_sums = softmax.total(blank, blank_product);

  for (Offset start = 0; start < channels; start += kVector * kLanes) {
    const Offset c = start + p.lane * kVector;
    const bool reads = c < channels;
    A part[kVector] = {};
    const auto add = [&](const LaneMember<A, Offset>& member, Offset first) {
      A grad = 0;
      if (member.token >= 0) {
        grad = std::exp(member.logit - token_sums.log_sum) * (member.product - token_sums.mean);
      }
      if (member.token >= 0 && start == 0) {
        add_features(grad, bias.features(p.i, member.token), token_sums.position);
      }
      const int steps = p.steps(first, members.slots);
      add_members<kLanes>(k, member.token, grad, steps, c, reads, part);
    };
    SEGCORE_UNROLL
    for (int chunk = 0; chunk < kKeptChunks; ++chunk) {
      if (chunk * kWarp >= members.slots) break;
      add(kept[chunk], chunk * kWarp);
    }
    for (Offset first = kKeptChunks * kWarp; first < members.slots; first += kWarp) {
      add(lane_member(first), first);
    }
    add_groups<kLanes>(part);
    if (p.group != 0 || !reads) continue;
    for (int r = 0; r < kVector; ++r) {
      part[r] = in.scale * (part[r] + token_sums.blank_grad * blank_k[c + r]);
    }
    store(grad_q + p.triple(in.sizes) * channels + c, part);
  }
  for (A& number : token_sums.position) number = sum_of_lanes<kWarp>(number);
  if (lane_of_warp() == 0) sums[p.triple(in.sizes)] = token_sums;
}

// Here the token of a warp is a key, and its members are the tokens that see its cluster.
template <typename T, typename Offset, int kVector, int kLanes>
__global__ void backward_keys_kernel(
    const BackwardInputs<T> all, const TokenSums<Accumulator<T>>* sums, T* grad_k, T* grad_v) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const ClusterAttentionSizes& s = in.sizes;
  const Place<Offset, kLanes> p(s);
  if (!p.active) return;
  const Offset channels = static_cast<Offset>(s.channels);
  const HeadRows<T, Offset> q(in.q, p.n, p.a), go(all.grad_output, p.n, p.a);
  const T *k = in.k.row(p.n, p.i, p.a), *v = in.v.row(p.n, p.i, p.a);
  const PositionBias<A> bias(in, p.n, p.a);
  const Offset cluster = p.i / static_cast<Offset>(s.cluster_size);
  const int64_t* offset = all.offsets + p.n * (s.clusters() + 1) + cluster;
  const int32_t* queries = all.indices + p.n * s.tokens * s.clusters_per_token + offset[0];
  const Offset count = static_cast<Offset>(offset[1] - offset[0]);
  const TokenSums<A>* head_sums = sums + p.n * s.tokens * s.heads + p.a;
  for (Offset start = 0; start < channels; start += kVector * kLanes) {
    const Offset c = start + p.lane * kVector;
    const bool reads = c < channels;
    A part_k[kVector] = {}, part_v[kVector] = {};
    for (Offset first = 0; first < count; first += kWarp) {
      const Offset query = p.member(first) < count ? queries[p.member(first)] : -1;
      const int steps = p.steps(first, count);
      const A dot_q = dots_of_members<kVector, kLanes>(k, q, query, steps, channels, p.lane);
      const A dot_go = dots_of_members<kVector, kLanes>(v, go, query, steps, channels, p.lane);
      A weight = 0, grad = 0;
      if (query >= 0) {
        const TokenSums<A>& query_sums = head_sums[query * s.heads];
        const A logit = in.scale * dot_q + bias(bias.features(query, p.i));
        weight = std::exp(logit - query_sums.log_sum);
        grad = weight * (dot_go - query_sums.mean);
      }
      add_members<kLanes>(q, query, grad, steps, c, reads, part_k);
      add_members<kLanes>(go, query, weight, steps, c, reads, part_v);
    }
    add_groups<kLanes>(part_k);
    add_groups<kLanes>(part_v);
    if (p.group != 0 || !reads) continue;
    for (A& number : part_k) number *= in.scale;
    store(grad_k + p.triple(s) * channels + c, part_k);
    store(grad_v + p.triple(s) * channels + c, part_v);
  }
}

// Tokens of the batch whose shares in the gradients of the parameters one warp adds up.
constexpr int64_t kTokensOfChunk = 64;

C10_HOST_DEVICE inline int64_t parameter_chunks(const ClusterAttentionSizes& s) {
  return (s.batch * s.tokens + kTokensOfChunk - 1) / kTokensOfChunk;
}

// Numbers of the gradients of pos_weight, pos_bias, blank_k and blank_v, which lie one after the other.
C10_HOST_DEVICE inline int64_t parameter_count(const ClusterAttentionSizes& s) {
  return s.heads * (kOffsetFeatures + 1 + 2 * s.channels);
}

// totals (chunks, parameters): a warp adds up one head of one chunk of tokens, a parameter a lane.
template <typename T>
__global__ void backward_parameters_kernel(
    const BackwardInputs<T> all, const TokenSums<Accumulator<T>>* sums, double* totals) {
  using A = Accumulator<T>;
  const Inputs<T>& in = all.forward;
  const ClusterAttentionSizes& s = in.sizes;
  const Group<kWarp> group(parameter_chunks(s) * s.heads);
  if (!group.active) return;
  const int64_t a = group.item % s.heads, chunk = group.item / s.heads;
  const int64_t begin = chunk * kTokensOfChunk, rest = s.batch * s.tokens - begin;
  const int64_t end = begin + (rest < kTokensOfChunk ? rest : kTokensOfChunk);
  const TokenSums<A>* head_sums = sums + a;
  double* pos_weight = totals + chunk * parameter_count(s);
  double* pos_bias = pos_weight + s.heads * kOffsetFeatures;
  double* blank_k = pos_bias + s.heads;
  double* blank_v = blank_k + s.heads * s.channels;
  if (group.lane <= kOffsetFeatures) {
    A sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += head_sums[i * s.heads].position[group.lane];
    if (group.lane < kOffsetFeatures) {
      pos_weight[a * kOffsetFeatures + group.lane] = sum;
    } else {
      pos_bias[a] = sum;
    }
  }
  for (int64_t c = group.lane; c < s.channels; c += kWarp) {
    A sum_k = 0, sum_v = 0;
    for (int64_t i = begin; i < end; ++i) {
      const TokenSums<A>& token = head_sums[i * s.heads];
      const int64_t n = i / s.tokens;
      sum_k += token.blank_grad * static_cast<A>(in.q.row(n, i - n * s.tokens, a)[c]);
      sum_v += token.blank_weight * static_cast<A>(all.grad_output.row(n, i - n * s.tokens, a)[c]);
    }
    blank_k[a * s.channels + c] = in.scale * sum_k;
    blank_v[a * s.channels + c] = sum_v;
  }
}

}  // namespace segcore::cluster_attention
