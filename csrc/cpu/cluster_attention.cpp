#include "cluster_attention.h"

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "dot.h"

namespace segcore::cluster_attention {
namespace {

// Two heads at work.
template <typename T>
struct PairOfHeads {
  int64_t head[2], count;  // the last of an odd number is there twice, and counts once
  const T* keys;
  Pair<T> pos_weight[kOffsetFeatures], pos_bias;
  T* weights;  // (blocks_per_token + 1, kPair)
};

// x in the first half, y in the second.
template <typename T>
SEGCORE_INLINE Pair<T> pair_of(T x, T y) {
  // Written so that the compiler broadcasts.
  const Pair<T> zero = {}, first = x - zero, second = y - zero;
  return __builtin_shufflevector(
      first, second, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31);
}

// The same numbers in both halves.
template <typename T>
SEGCORE_INLINE Pair<T> twice(const T* data) {
  const Lanes<T> x = lanes(data);
  return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Logits of all tokens of kBlocks blocks: product with the keys, position bias, -infinity in empty
// slots. `features` of one token, their rows `stride` apart.
template <int kBlocks, typename T>
SEGCORE_INLINE void logits_of_blocks(
    const Inputs<T>& in,
    const PairOfHeads<T>& heads,
    const T* const* q,
    const int64_t* blocks,
    const T* features,
    int64_t stride,
    T* logits) {
  const int64_t channels = in.sizes.channels;
  const T* block[kBlocks];
  for (int b = 0; b < kBlocks; ++b) block[b] = heads.keys + blocks[b] * channels * kPair;
  Pair<T> sum[kBlocks] = {};
  for (int64_t c = 0; c < channels; ++c) {
    const Pair<T> query = pair_of(q[0][c], q[1][c]);
    for (int b = 0; b < kBlocks; ++b) sum[b] += query * vector_at<Pair<T>>(block[b] + c * kPair);
  }
  for (int b = 0; b < kBlocks; ++b) {
    const T* feature = features + b * kLanes;
    Pair<T> bias = heads.pos_bias + twice(feature + kOffsetFeatures * stride);
    for (int f = 0; f < kOffsetFeatures; ++f) {
      bias += heads.pos_weight[f] * twice(feature + f * stride);
    }
    vector_at<Pair<T>>(logits + b * kPair) = in.scale * sum[b] + bias;
  }
}

// Logits of a neighborhood, into heads.weights.
template <typename T>
SEGCORE_INLINE void compute_logits(
    const Inputs<T>& in,
    const PairOfHeads<T>& heads,
    const T* const* q,
    const Neighbors<T>& neighbors) {
  const int64_t count = in.blocks_per_token(), stride = in.slots_per_token();
  int64_t b = 0;
  for (; b + 6 <= count; b += 6) {
    logits_of_blocks<6>(
        in, heads, q, neighbors.blocks + b, neighbors.features + b * kLanes, stride,
        heads.weights + b * kPair);
  }
  for (; b < count; ++b) {
    logits_of_blocks<1>(
        in, heads, q, neighbors.blocks + b, neighbors.features + b * kLanes, stride,
        heads.weights + b * kPair);
  }
}

// Exchanges numbers of each half that are kDistance apart.
template <int kDistance, typename T>
SEGCORE_INLINE Pair<T> exchanged(const Pair<T>& x) {
  return __builtin_shufflevector(
      x, x, 0 ^ kDistance, 1 ^ kDistance, 2 ^ kDistance, 3 ^ kDistance, 4 ^ kDistance,
      5 ^ kDistance, 6 ^ kDistance, 7 ^ kDistance, 8 ^ kDistance, 9 ^ kDistance, 10 ^ kDistance,
      11 ^ kDistance, 12 ^ kDistance, 13 ^ kDistance, 14 ^ kDistance, 15 ^ kDistance);
}

template <typename T>
SEGCORE_INLINE Pair<T> larger(const Pair<T>& x, const Pair<T>& y) {
  return x < y ? y : x;
}

// Logits (count, kPair) -> exponentials relative to the largest of their head. Returns the sum of
// each head, in all places of its half.
template <typename T>
SEGCORE_INLINE Pair<T> exponentials(T* logits, int64_t count) {
  Pair<T> largest = vector_at<Pair<T>>(logits);
  for (int64_t b = 1; b < count; ++b) {
    largest = larger<T>(largest, vector_at<Pair<T>>(logits + b * kPair));
  }
  largest = larger<T>(largest, exchanged<4, T>(largest));
  largest = larger<T>(largest, exchanged<2, T>(largest));
  largest = larger<T>(largest, exchanged<1, T>(largest));
  Pair<T> sum = {};
  for (int64_t b = 0; b < count; ++b) {
    T* weights = logits + b * kPair;
    vector_at<Pair<T>>(weights) -= largest;
#pragma omp simd
    for (int l = 0; l < kPair; ++l) weights[l] = exp_of_negative(weights[l]);
    sum += vector_at<Pair<T>>(weights);
  }
  sum += exchanged<4, T>(sum);
  sum += exchanged<2, T>(sum);
  return sum + exchanged<1, T>(sum);
}

template <typename T>
SEGCORE_INLINE PairOfHeads<T> pair_of_heads(
    const Inputs<T>& in, int64_t n, int64_t pair, Tile<T>& tile) {
  const int64_t pairs = (in.sizes.heads + 1) / 2;
  PairOfHeads<T> heads;
  heads.head[0] = 2 * pair;
  heads.head[1] = std::min(2 * pair + 1, in.sizes.heads - 1);
  heads.count = heads.head[1] - heads.head[0] + 1;
  heads.keys = in.k_lanes + (n * pairs + pair) * in.blocks * in.sizes.channels * kPair;
  const T* weight[2];
  for (int h = 0; h < 2; ++h) weight[h] = in.pos_weight + heads.head[h] * kOffsetFeatures;
  for (int f = 0; f < kOffsetFeatures; ++f) {
    heads.pos_weight[f] = pair_of(weight[0][f], weight[1][f]);
  }
  heads.pos_bias = pair_of(in.pos_bias[heads.head[0]], in.pos_bias[heads.head[1]]);
  heads.weights = tile.weights.data();
  return heads;
}

// Output of two heads of token i of image n.
template <typename T>
SEGCORE_INLINE void attend(
    const Inputs<T>& in,
    int64_t n,
    int64_t i,
    const PairOfHeads<T>& heads,
    const Neighbors<T>& neighbors,
    T* output) {
  const int64_t channels = in.sizes.channels, blocks = in.blocks_per_token();
  const T *q[2], *blank_v[2], *values[2];
  T *out[2], blank_logit[2];
  for (int h = 0; h < 2; ++h) {
    const int64_t a = heads.head[h];
    q[h] = in.q.row(n, i, a);
    values[h] = in.v.row(n, 0, a);
    blank_v[h] = in.blank_v + a * channels;
    out[h] = output + ((n * in.sizes.tokens + i) * in.sizes.heads + a) * channels;
    blank_logit[h] = in.scale * dot(q[h], in.blank_k + a * channels, channels);
  }
  compute_logits(in, heads, q, neighbors);
  // The blank token is the last one, in the first place of each half.
  T* blank = heads.weights + blocks * kPair;
  std::fill_n(blank, kPair, -std::numeric_limits<T>::infinity());
  for (int h = 0; h < 2; ++h) blank[h * kLanes] = blank_logit[h];
  const Pair<T> sum = exponentials(heads.weights, blocks + 1);
  for (int64_t h = 0; h < heads.count; ++h) {
    for (int64_t c = 0; c < channels; ++c) out[h][c] = blank[h * kLanes] * blank_v[h][c];
    add_rows<kPair>(
        in.block, neighbors.blocks, blocks, heads.weights + h * kLanes, values[h], in.v.token,
        channels, out[h]);
    const T inverse = 1 / sum[h * kLanes];
    for (int64_t c = 0; c < channels; ++c) out[h][c] *= inverse;
  }
}

// Output of the tokens [begin, end) of image n.
template <typename T>
SEGCORE_TARGET_CLONES void forward_tokens(
    const Inputs<T>& in, int64_t n, int64_t begin, int64_t end, Tile<T>& tile, T* output) {
  for (int64_t first = begin; first < end; first += tile.tokens) {
    const int64_t tokens = std::min(tile.tokens, end - first);
    for (int64_t t = 0; t < tokens; ++t) collect(in, n, first + t, tile_neighbors(in, tile, t));
    for (int64_t pair = 0; 2 * pair < in.sizes.heads; ++pair) {
      const PairOfHeads<T> heads = pair_of_heads(in, n, pair, tile);
      for (int64_t t = 0; t < tokens; ++t) {
        attend(in, n, first + t, heads, tile_neighbors(in, tile, t), output);
      }
    }
  }
}

template <typename T>
void forward(const Inputs<T>& in, T* output) {
  const ClusterAttentionSizes& s = in.sizes;
  const int64_t tiles = (s.tokens + kTile - 1) / kTile;
  const int64_t work = kTile * in.slots_per_token() * s.heads * (s.channels + 8);
  torch::stable::parallel_for(
      0, s.batch * tiles, grain(work), [&](int64_t begin, int64_t end) {
        Tile<T> tile(in);
        for (int64_t item = begin; item < end; ++item) {
          const int64_t first = item % tiles * kTile;
          const int64_t last = std::min(first + kTile, s.tokens);
          forward_tokens(in, item / tiles, first, last, tile, output);
        }
      });
}

Tensor run(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s) {
  const ScalarType precision = accumulation_type(a.q.scalar_type());
  const Prepared prepared(a, s, /*for_backward=*/false);
  Tensor output = torch::stable::new_empty(a.q, s.output(), precision);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    forward(prepared.inputs<T>(), output.mutable_data_ptr<T>());
  });
  return torch::stable::to(output, a.q.scalar_type());
}

}  // namespace
}  // namespace segcore::cluster_attention

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  using namespace segcore;
  library.impl(
      "cluster_attention", TORCH_BOX(&ClusterAttention::forward<cluster_attention::run>));
}
