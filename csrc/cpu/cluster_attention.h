// Forward and backward of attention over clusters on the CPU: common parts. The tokens of a cluster lie
// side by side: they are cut into blocks of kLanes tokens, and keys and values are transposed block by
// block, so that one channel of a block is one vector and no product needs a sum across lanes.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include <torch/csrc/stable/ops.h>

#include "../common/cluster_attention.h"
#include "../common/offset_features.h"
#include "../common/rows.h"
#include "grain.h"
#include "lanes.h"

namespace segcore::cluster_attention {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Tokens that share a tile: they see about the same clusters, whose keys and values of one head then
// stay in the first-level cache.
constexpr int64_t kTile = 8;

// Numbers that the offset features of a tile may take; beyond this tiles are smaller.
constexpr int64_t kFeaturesOfTile = 1 << 15;

// kLanes numbers of one head and as many of the next.
constexpr int64_t kPair = 2 * kLanes;
template <typename T>
struct PairOf {
  typedef T type __attribute__((vector_size(kPair * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Pair = typename PairOf<T>::type;

// kLanes tokens of one cluster, fewer at its end.
struct Block {
  int64_t first_token, tokens;
};

template <typename T>
struct Inputs {
  ClusterAttentionSizes sizes;
  T scale;
  Rows<const T> q, k, v;
  const int32_t* clusters;  // (batch, tokens, clusters_per_token)
  const T* positions;       // (batch, tokens, 2)
  const T* pos_weight;      // (heads, kOffsetFeatures)
  const T* pos_bias;        // (heads)
  const T* blank_k;         // (heads, channels)
  const T* blank_v;
  int64_t blocks_per_cluster, blocks;
  const Block* block;
  const T* slots;    // (batch, blocks, 3, kLanes): x, y, and 0, or -infinity for an empty slot
  // (batch, heads, blocks, channels, kLanes), 0 in empty slots; in the forward heads lie side by side
  // in pairs: (batch, pairs, blocks, channels, kPair).
  const T* k_lanes;
  const T* v_lanes;  // as of the backward, which alone has it

  int64_t blocks_per_token() const { return sizes.clusters_per_token * blocks_per_cluster; }
  int64_t slots_per_token() const { return blocks_per_token() * kLanes; }
  int64_t lanes_offset(int64_t n, int64_t a, int64_t b) const {
    return ((n * sizes.heads + a) * blocks + b) * sizes.channels * kLanes;
  }
};

// Offset features and the penalty of empty slots, each of `slots` numbers.
constexpr int64_t kRowsOfFeatures = kOffsetFeatures + 1;

// One tile at work: scratch memory of a thread.
template <typename T>
struct Tile {
  int64_t tokens;
  std::vector<int64_t> blocks;  // (tokens, blocks_per_token)
  std::vector<T> features;      // (tokens, kRowsOfFeatures, slots_per_token)
  std::vector<T> weights;       // (slots_per_token) of a head; with a blank block of a pair
  std::vector<T> grads;         // (slots_per_token)

  explicit Tile(const Inputs<T>& in) {
    const int64_t numbers = std::max<int64_t>(1, kRowsOfFeatures * in.slots_per_token());
    tokens = std::clamp<int64_t>(kFeaturesOfTile / numbers, 1, kTile);
    blocks.resize(tokens * in.blocks_per_token());
    features.resize(tokens * numbers);
    weights.resize(kPair * (in.blocks_per_token() + 1));
    grads.resize(in.slots_per_token());
  }
};

// The neighborhood of one token.
template <typename T>
struct Neighbors {
  int64_t* blocks;
  T* features;
};

template <typename T>
SEGCORE_INLINE Neighbors<T> tile_neighbors(const Inputs<T>& in, Tile<T>& tile, int64_t index) {
  return {
      tile.blocks.data() + index * in.blocks_per_token(),
      tile.features.data() + index * kRowsOfFeatures * in.slots_per_token()};
}

// Features of the offsets from (x, y) to `count` slots, rows of them `stride` apart.
template <typename T>
SEGCORE_INLINE void write_features(
    T x, T y, const T* slot_x, const T* slot_y, int64_t count, int64_t stride, T* features) {
#pragma omp simd
  for (int64_t s = 0; s < count; ++s) {
    const OffsetFeatures<T> f = offset_features(slot_x[s] - x, slot_y[s] - y);
    features[s] = f.x;
    features[s + stride] = f.y;
    features[s + 2 * stride] = f.distance;
    features[s + 3 * stride] = f.sine;
    features[s + 4 * stride] = f.cosine;
  }
}

// Finds the blocks of a token and the features of their offsets.
template <typename T>
SEGCORE_INLINE void collect(
    const Inputs<T>& in, int64_t n, int64_t i, const Neighbors<T>& neighbors) {
  const int64_t stride = in.slots_per_token(), per_cluster = in.blocks_per_cluster;
  const int64_t token = n * in.sizes.tokens + i;
  const int32_t* cluster = in.clusters + token * in.sizes.clusters_per_token;
  T* penalty = neighbors.features + kOffsetFeatures * stride;
  for (int64_t b = 0; b < in.blocks_per_token(); ++b) {
    const int64_t number = cluster[b / per_cluster] * per_cluster + b % per_cluster;
    const T* slots = in.slots + (n * in.blocks + number) * 3 * kLanes;
    neighbors.blocks[b] = number;
    // The rows of positions are overwritten by those of offsets.
    lanes(neighbors.features + b * kLanes) = lanes(slots);
    lanes(neighbors.features + stride + b * kLanes) = lanes(slots + kLanes);
    lanes(penalty + b * kLanes) = lanes(slots + 2 * kLanes);
  }
  const T x = in.positions[2 * token], y = in.positions[2 * token + 1];
  T* features = neighbors.features;
  write_features(x, y, features, features + stride, stride, stride, features);
}

// Tokens of a block whose rows are summed apart: one sum would wait for its own last addition.
constexpr int kSums = 4;

// sums[t % kSums] += weights times the rows of tokens t, kVectors registers of channels.
template <int kVectors, typename V, typename T>
SEGCORE_INLINE void add_tokens(
    const T* weight, const T* row, int64_t stride, int64_t tokens, V (*sums)[kVectors]) {
  for (int64_t t = 0; t < tokens; t += kSums) {
    for (int64_t u = 0; u < kSums && t + u < tokens; ++u) {
      for (int j = 0; j < kVectors; ++j) {
        sums[u][j] += weight[t + u] *
            vector_at<V>(row + (t + u) * stride + j * int64_t(sizeof(V) / sizeof(T)));
      }
    }
  }
}

// sum[c] += weights of the neighborhood, kStride from block to block, times the rows of its tokens,
// kVectors registers of channels.
template <int kStride, int kVectors, typename V, typename T>
SEGCORE_INLINE void add_rows_of_blocks(
    const Block* block,
    const int64_t* blocks,
    int64_t count,
    const T* weights,
    const T* rows,
    int64_t stride,
    T* sum) {
  V sums[kSums][kVectors] = {};
  for (int64_t b = 0; b < count; ++b) {
    const Block& source = block[blocks[b]];
    const T* row = rows + source.first_token * stride;
    const T* weight = weights + b * kStride;
    if (source.tokens == kLanes) {
      add_tokens<kVectors>(weight, row, stride, kLanes, sums);
    } else {
      add_tokens<kVectors>(weight, row, stride, source.tokens, sums);
    }
  }
  for (int j = 0; j < kVectors; ++j) {
    vector_at<V>(sum + j * int64_t(sizeof(V) / sizeof(T))) +=
        (sums[0][j] + sums[1][j]) + (sums[2][j] + sums[3][j]);
  }
}

// The same for all channels.
template <int kStride, typename T>
SEGCORE_INLINE void add_rows(
    const Block* block,
    const int64_t* blocks,
    int64_t count,
    const T* weights,
    const T* rows,
    int64_t stride,
    int64_t channels,
    T* sum) {
  int64_t c = 0;
  for (; c + 2 * kPair <= channels; c += 2 * kPair) {
    add_rows_of_blocks<kStride, 2, Pair<T>>(
        block, blocks, count, weights, rows + c, stride, sum + c);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    add_rows_of_blocks<kStride, 1, Lanes<T>>(
        block, blocks, count, weights, rows + c, stride, sum + c);
  }
  for (; c < channels; ++c) {
    add_rows_of_blocks<kStride, 1, T>(block, blocks, count, weights, rows + c, stride, sum + c);
  }
}

// The arguments as the kernels read them.
class __attribute__((visibility("hidden"))) Prepared {
 public:
  Prepared(
      const ClusterAttentionArguments& arguments,
      const ClusterAttentionSizes& sizes,
      bool for_backward);

  template <typename T>
  Inputs<T> inputs() const;

 private:
  ClusterAttentionSizes sizes_;
  double scale_;
  Tensor q_, k_, v_, clusters_, positions_, pos_weight_, pos_bias_, blank_k_, blank_v_;
  int64_t blocks_per_cluster_, blocks_;
  std::vector<Block> block_;
  Tensor slots_, k_lanes_, v_lanes_;
};

}  // namespace segcore::cluster_attention
