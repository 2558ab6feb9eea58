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
#include "dot.h"
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
  const T* k_lanes;  // (batch, heads, blocks, channels, kLanes), 0 in empty slots
  const T* v_lanes;  // the same; only for the backward

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
  std::vector<T> weights;       // (slots_per_token)
  std::vector<T> grads;         // (slots_per_token)
  std::vector<T> repeated;      // (channels, kLanes)

  explicit Tile(const Inputs<T>& in) {
    const int64_t numbers = std::max<int64_t>(1, kRowsOfFeatures * in.slots_per_token());
    tokens = std::clamp<int64_t>(kFeaturesOfTile / numbers, 1, kTile);
    blocks.resize(tokens * in.blocks_per_token());
    features.resize(tokens * numbers);
    weights.resize(in.slots_per_token());
    grads.resize(in.slots_per_token());
    repeated.resize(in.sizes.channels * kLanes);
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

// Channels of a block that a vector V holds: one or two.
template <typename V, typename T>
constexpr int64_t kChannels = sizeof(V) / sizeof(Lanes<T>);

// The sum of the channels that a vector holds.
template <typename T, typename V>
SEGCORE_INLINE Lanes<T> sum_of_channels(const V& x) {
  const T* numbers = reinterpret_cast<const T*>(&x);
  Lanes<T> sum = lanes(numbers);
  for (int64_t c = 1; c < kChannels<V, T>; ++c) sum += lanes(numbers + c * kLanes);
  return sum;
}

// Products of a row with all tokens of kBlocks blocks. `repeated`: each of its numbers kLanes times, for
// vectors of two channels.
template <int kBlocks, typename V, typename T>
SEGCORE_INLINE void dot_blocks(
    const T* row,
    const T* repeated,
    int64_t channels,
    const T* transposed,
    const int64_t* blocks,
    T* products) {
  const T* block[kBlocks];
  for (int b = 0; b < kBlocks; ++b) block[b] = transposed + blocks[b] * channels * kLanes;
  V sum[kBlocks] = {};
  int64_t c = 0;
  for (; c + kChannels<V, T> <= channels; c += kChannels<V, T>) {
    for (int b = 0; b < kBlocks; ++b) {
      const V& column = vector_at<V>(block[b] + c * kLanes);
      if constexpr (kChannels<V, T> == 1) {
        sum[b] += row[c] * column;
      } else {
        sum[b] += vector_at<V>(repeated + c * kLanes) * column;
      }
    }
  }
  for (int b = 0; b < kBlocks; ++b) {
    lanes(products + b * kLanes) = sum_of_channels<T>(sum[b]);
    if (c < channels) lanes(products + b * kLanes) += row[c] * lanes(block[b] + c * kLanes);
  }
}

// Products of a row with all slots of a neighborhood; `transposed` are the blocks of one head,
// `repeated` is scratch of channels * kLanes.
template <typename V, typename T>
SEGCORE_INLINE void dot_neighbors(
    const T* row,
    int64_t channels,
    const T* transposed,
    const int64_t* blocks,
    int64_t count,
    T* repeated,
    T* products) {
  if constexpr (kChannels<V, T> > 1) {
    for (int64_t c = 0; c < channels; ++c) lanes(repeated + c * kLanes) = row[c] - Lanes<T>{};
  }
  int64_t b = 0;
  for (; b + 6 <= count; b += 6) {
    dot_blocks<6, V>(row, repeated, channels, transposed, blocks + b, products + b * kLanes);
  }
  for (; b + 3 <= count; b += 3) {
    dot_blocks<3, V>(row, repeated, channels, transposed, blocks + b, products + b * kLanes);
  }
  for (; b < count; ++b) {
    dot_blocks<1, V>(row, repeated, channels, transposed, blocks + b, products + b * kLanes);
  }
}

// products -> logits: scale and position bias of one head, -infinity in empty slots.
template <typename T>
SEGCORE_INLINE void add_bias(
    T scale, const T* weight, T bias, const T* features, int64_t count, int64_t stride, T* logits) {
  const T* penalty = features + kOffsetFeatures * stride;
#pragma omp simd
  for (int64_t s = 0; s < count; ++s) {
    logits[s] = scale * logits[s] + weight[0] * features[s] + weight[1] * features[s + stride] +
        weight[2] * features[s + 2 * stride] + weight[3] * features[s + 3 * stride] +
        weight[4] * features[s + 4 * stride] + bias + penalty[s];
  }
}

// The softmax of a token before the division by its sum.
template <typename T>
struct Softmax {
  T largest_logit, sum, blank;
};

template <typename T>
SEGCORE_INLINE Softmax<T> softmax(T* logits, int64_t count, T blank_logit) {
  T largest = blank_logit;
#pragma omp simd reduction(max : largest)
  for (int64_t s = 0; s < count; ++s) largest = largest < logits[s] ? logits[s] : largest;
  const T blank = exp_of_negative(blank_logit - largest);
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t s = 0; s < count; ++s) {
    logits[s] = exp_of_negative(logits[s] - largest);
    sum += logits[s];
  }
  return {largest, sum + blank, blank};
}

// Weights of all members of a token, before the division by their sum, into `tile.weights`.
template <typename V, typename T>
SEGCORE_INLINE Softmax<T> attend(
    const Inputs<T>& in,
    int64_t n,
    int64_t i,
    int64_t a,
    const Neighbors<T>& neighbors,
    Tile<T>& tile) {
  T* weights = tile.weights.data();
  const int64_t channels = in.sizes.channels, slots = in.slots_per_token();
  const T* q = in.q.row(n, i, a);
  const T* keys = in.k_lanes + in.lanes_offset(n, a, 0);
  dot_neighbors<V>(
      q, channels, keys, neighbors.blocks, in.blocks_per_token(), tile.repeated.data(), weights);
  const T* pos_weight = in.pos_weight + a * kOffsetFeatures;
  add_bias(in.scale, pos_weight, in.pos_bias[a], neighbors.features, slots, slots, weights);
  return softmax(weights, slots, in.scale * dot(q, in.blank_k + a * channels, channels));
}

// sum[c] += weights of the neighborhood times the rows of its tokens, kVectors vectors V of channels.
template <int kVectors, typename V, typename T>
SEGCORE_INLINE void add_rows_of_blocks(
    const Block* block,
    const int64_t* blocks,
    int64_t count,
    const T* weights,
    const T* rows,
    int64_t stride,
    T* sum) {
  constexpr int64_t kLength = sizeof(V) / sizeof(T);
  // Tokens are summed apart: one sum would wait for its own last addition.
  constexpr int kSums = kLanes / kVectors;
  V sums[kSums][kVectors] = {};
  for (int64_t b = 0; b < count; ++b) {
    const Block& source = block[blocks[b]];
    const T* row = rows + source.first_token * stride;
    const T* weight = weights + b * kLanes;
    int64_t t = 0;
    for (; t + kSums <= source.tokens; t += kSums, row += kSums * stride) {
      for (int j = 0; j < kVectors; ++j) {
        for (int u = 0; u < kSums; ++u) {
          sums[u][j] += weight[t + u] * vector_at<V>(row + u * stride + j * kLength);
        }
      }
    }
    for (; t < source.tokens; ++t, row += stride) {
      for (int j = 0; j < kVectors; ++j) sums[0][j] += weight[t] * vector_at<V>(row + j * kLength);
    }
  }
  for (int j = 0; j < kVectors; ++j) {
    for (int u = 1; u < kSums; ++u) sums[0][j] += sums[u][j];
    vector_at<V>(sum + j * kLength) += sums[0][j];
  }
}

// The same for all channels.
template <typename V, typename T>
SEGCORE_INLINE void add_rows(
    const Block* block,
    const int64_t* blocks,
    int64_t count,
    const T* weights,
    const T* rows,
    int64_t stride,
    int64_t channels,
    T* sum) {
  constexpr int kVectors = 4 * sizeof(Lanes<T>) / sizeof(V);
  int64_t c = 0;
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
    add_rows_of_blocks<kVectors, V>(block, blocks, count, weights, rows + c, stride, sum + c);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    add_rows_of_blocks<1, Lanes<T>>(block, blocks, count, weights, rows + c, stride, sum + c);
  }
  for (; c < channels; ++c) {
    add_rows_of_blocks<1, T>(block, blocks, count, weights, rows + c, stride, sum + c);
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
