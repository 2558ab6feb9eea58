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

  explicit Tile(const Inputs<T>& in) {
    const int64_t numbers = std::max<int64_t>(1, kRowsOfFeatures * in.slots_per_token());
    tokens = std::clamp<int64_t>(kFeaturesOfTile / numbers, 1, kTile);
    blocks.resize(tokens * in.blocks_per_token());
    features.resize(tokens * numbers);
    weights.resize(in.slots_per_token());
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

// Products of a row with all tokens of kBlocks blocks.
template <int kBlocks, typename T>
SEGCORE_INLINE void dot_blocks(
    const T* row, int64_t channels, const T* transposed, const int64_t* blocks, T* products) {
  const T* block[kBlocks];
  for (int b = 0; b < kBlocks; ++b) block[b] = transposed + blocks[b] * channels * kLanes;
  Lanes<T> sum[kBlocks] = {};
  for (int64_t c = 0; c < channels; ++c) {
    for (int b = 0; b < kBlocks; ++b) sum[b] += row[c] * lanes(block[b] + c * kLanes);
  }
  for (int b = 0; b < kBlocks; ++b) lanes(products + b * kLanes) = sum[b];
}

// Products of a row with all slots of a neighborhood; `transposed` are the blocks of one head.
template <typename T>
SEGCORE_INLINE void dot_neighbors(
    const T* row,
    int64_t channels,
    const T* transposed,
    const int64_t* blocks,
    int64_t count,
    T* products) {
  int64_t b = 0;
  for (; b + 6 <= count; b += 6) {
    dot_blocks<6>(row, channels, transposed, blocks + b, products + b * kLanes);
  }
  for (; b + 3 <= count; b += 3) {
    dot_blocks<3>(row, channels, transposed, blocks + b, products + b * kLanes);
  }
  for (; b < count; ++b) {
    dot_blocks<1>(row, channels, transposed, blocks + b, products + b * kLanes);
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

// Weights of all members of a token, before the division by their sum, into `weights`.
template <typename T>
SEGCORE_INLINE Softmax<T> attend(
    const Inputs<T>& in,
    int64_t n,
    int64_t i,
    int64_t a,
    const Neighbors<T>& neighbors,
    T* weights) {
  const int64_t channels = in.sizes.channels, slots = in.slots_per_token();
  const T* q = in.q.row(n, i, a);
  const T* keys = in.k_lanes + in.lanes_offset(n, a, 0);
  dot_neighbors(q, channels, keys, neighbors.blocks, in.blocks_per_token(), weights);
  const T* pos_weight = in.pos_weight + a * kOffsetFeatures;
  add_bias(in.scale, pos_weight, in.pos_bias[a], neighbors.features, slots, slots, weights);
  return softmax(weights, slots, in.scale * dot(q, in.blank_k + a * channels, channels));
}

// sum[c] += weights of the neighborhood times the rows of its tokens, kVectors * kLanes channels.
template <int kVectors, typename T>
SEGCORE_INLINE void add_rows_of_blocks(
    const Block* block,
    const int64_t* blocks,
    int64_t count,
    const T* weights,
    const T* rows,
    int64_t stride,
    T* sum) {
  // Two sums in turn: one alone would wait for its own last addition.
  Lanes<T> even[kVectors] = {}, odd[kVectors] = {};
  for (int64_t b = 0; b < count; ++b) {
    const Block& source = block[blocks[b]];
    const T* row = rows + source.first_token * stride;
    const T* weight = weights + b * kLanes;
    int64_t t = 0;
    for (; t + 2 <= source.tokens; t += 2, row += 2 * stride) {
      for (int j = 0; j < kVectors; ++j) {
        even[j] += weight[t] * lanes(row + j * kLanes);
        odd[j] += weight[t + 1] * lanes(row + stride + j * kLanes);
      }
    }
    if (t < source.tokens) {
      for (int j = 0; j < kVectors; ++j) even[j] += weight[t] * lanes(row + j * kLanes);
    }
  }
  for (int j = 0; j < kVectors; ++j) lanes(sum + j * kLanes) += even[j] + odd[j];
}

// The same for all channels.
template <typename T>
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
  for (; c + 4 * kLanes <= channels; c += 4 * kLanes) {
    add_rows_of_blocks<4>(block, blocks, count, weights, rows + c, stride, sum + c);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    add_rows_of_blocks<1>(block, blocks, count, weights, rows + c, stride, sum + c);
  }
  for (; c < channels; ++c) {
    for (int64_t b = 0; b < count; ++b) {
      const Block& source = block[blocks[b]];
      for (int64_t t = 0; t < source.tokens; ++t) {
        sum[c] += weights[b * kLanes + t] * rows[(source.first_token + t) * stride + c];
      }
    }
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
