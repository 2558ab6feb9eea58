// Forward and backward of neighborhood_merge on the CPU: common parts. The members of a query are worked
// on in chunks of kChunk, which are the lanes of the weight net.
#pragma once

#include <algorithm>
#include <vector>

#include "../common/neighborhood_merge.h"
#include "../common/offset_features.h"
#include "index_range.h"
#include "simd.h"

namespace segcore::neighborhood_merge {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Members whose weights are computed at once.
constexpr int64_t kChunk = 16;

template <typename T>
struct Inputs {
  NeighborhoodMergeSizes sizes;
  MergeParameters<T> net;
  const T* features;       // (batch, tokens, channels)
  const T* positions;      // (batch, tokens, 2)
  const T* centers;        // (batch, queries, 2)
  const int64_t* members;  // (batch, queries, members)
  const bool* mask;        // (batch, queries, members) or null
  const T* importance;     // (batch, tokens) or null

  int64_t first_token(int64_t query) const { return query / sizes.queries * sizes.tokens; }
};

// Members of one query that take part.
template <typename T>
struct MemberList {
  int64_t count = 0;
  std::vector<int64_t> entry;  // in the lists of members of all queries
  std::vector<int64_t> token;  // of the whole batch
  std::vector<T> weights;      // (kMergeWeights, stride)
  int64_t stride;

  explicit MemberList(int64_t members)
      : entry(members), token(members), stride((members + kChunk - 1) / kChunk * kChunk) {
    weights.resize(kMergeWeights * stride);
  }
};

template <typename T>
SEGCORE_INLINE void collect(const Inputs<T>& in, int64_t query, MemberList<T>& list) {
  const int64_t members = in.sizes.members, first_token = in.first_token(query);
  list.count = 0;
  for (int64_t e = query * members; e < (query + 1) * members; ++e) {
    if (in.mask != nullptr && !in.mask[e]) continue;
    list.entry[list.count] = e;
    list.token[list.count++] = first_token + in.members[e];
  }
}

// Offsets of the members of a chunk from a query, and their importance; 0 beyond the end.
template <typename T>
struct Chunk {
  T x[kChunk] = {}, y[kChunk] = {}, importance[kChunk] = {};
};

template <typename T>
SEGCORE_INLINE Chunk<T> make_chunk(
    const Inputs<T>& in, int64_t query, const int64_t* tokens, int64_t count) {
  Chunk<T> chunk;
  const T x = in.centers[2 * query], y = in.centers[2 * query + 1];
  for (int64_t i = 0; i < count; ++i) {
    chunk.x[i] = in.positions[2 * tokens[i]] - x;
    chunk.y[i] = in.positions[2 * tokens[i] + 1] - y;
    chunk.importance[i] = in.importance == nullptr ? T(1) : in.importance[tokens[i]];
  }
  return chunk;
}

// The weight net for the members of a chunk, before GELU.
template <typename T>
struct Hidden {
  T features[kOffsetFeatures][kChunk];
  T normalized[kMergeWeights][kChunk], output[kMergeWeights][kChunk], inverse_deviation[kChunk];

  SEGCORE_INLINE MergeHidden<T> member(int64_t i) const {
    MergeHidden<T> hidden;
    hidden.inverse_deviation = inverse_deviation[i];
    SEGCORE_UNROLL
    for (int r = 0; r < kMergeWeights; ++r) hidden.normalized[r] = normalized[r][i];
    return hidden;
  }
};

template <typename T>
SEGCORE_INLINE void compute_hidden(
    const MergeParameters<T>& net, const Chunk<T>& chunk, Hidden<T>& hidden) {
#pragma omp simd
  for (int64_t i = 0; i < kChunk; ++i) {
    const OffsetFeatures<T> f = offset_features(chunk.x[i], chunk.y[i]);
    hidden.features[0][i] = f.x;
    hidden.features[1][i] = f.y;
    hidden.features[2][i] = f.distance;
    hidden.features[3][i] = f.sine;
    hidden.features[4][i] = f.cosine;
  }
#pragma omp simd
  for (int64_t i = 0; i < kChunk; ++i) {
    T features[kOffsetFeatures];
    SEGCORE_UNROLL
    for (int f = 0; f < kOffsetFeatures; ++f) features[f] = hidden.features[f][i];
    const MergeHidden<T> member = merge_hidden(net, features);
    hidden.inverse_deviation[i] = member.inverse_deviation;
    SEGCORE_UNROLL
    for (int r = 0; r < kMergeWeights; ++r) {
      hidden.normalized[r][i] = member.normalized[r];
      hidden.output[r][i] = member.output[r];
    }
  }
}

// The arguments as the kernels read them.
struct __attribute__((visibility("hidden"))) Prepared : NeighborhoodMergeTensors {
  Prepared(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s)
      : NeighborhoodMergeTensors(a, s, a.positions.scalar_type()) {
    check_index_range(
        "members", members.const_data_ptr<int64_t>(), s.batch * s.queries * s.members, 0, s.tokens);
  }

  template <typename T>
  Inputs<T> inputs() const {
    Inputs<T> in = {};
    in.sizes = sizes;
    const T* row = linear_weight.const_data_ptr<T>();
    for (auto& weights : in.net.matrix) {
      std::copy_n(row, kOffsetFeatures, weights);
      row += kOffsetFeatures;
    }
    std::copy_n(linear_bias.const_data_ptr<T>(), kMergeWeights, in.net.bias);
    std::copy_n(norm_weight.const_data_ptr<T>(), kMergeWeights, in.net.scale);
    std::copy_n(norm_bias.const_data_ptr<T>(), kMergeWeights, in.net.shift);
    in.features = features.const_data_ptr<T>();
    in.positions = positions.const_data_ptr<T>();
    in.centers = centers.const_data_ptr<T>();
    in.members = members.const_data_ptr<int64_t>();
    in.mask = mask ? mask->const_data_ptr<bool>() : nullptr;
    in.importance = importance ? importance->const_data_ptr<T>() : nullptr;
    return in;
  }
};

// Multiply-adds of one query.
inline int64_t work(const NeighborhoodMergeSizes& s) {
  return s.members * kMergeWeights * (s.channels + 16);
}

}  // namespace segcore::neighborhood_merge
