// The backward recomputes the weights twice instead of keeping them: once token by token, for the
// gradients of queries and parameters, and once block by block over the tokens that see a block, for
// the gradients of keys and values. No number is written by two threads, and every sum has one order
// whatever the number of threads.
#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "cluster_attention.h"
#include "index_range.h"

namespace segcore::cluster_attention {
namespace {

// Tokens whose gradients of parameters are summed on their own before all sums are added up.
constexpr int64_t kChunk = 4 * kTile;

// Queries of a block that are at work at once, and those of them whose products are.
constexpr int64_t kQueries = 32, kQueriesPerProduct = 8;

// Results of the first recomputation for the second, of one token and head.
template <typename T>
struct Statistics {
  T log_sum;  // of the exponentials of all logits
  T mean;     // of the gradients of the weights, under the weights
};

// Sums of one chunk of tokens: the gradients of the parameters, those of the blank key without scale.
template <typename T>
struct ParameterSums {
  T* data;
  int64_t heads, channels;

  static int64_t size(const ClusterAttentionSizes& s) {
    return s.heads * ((kOffsetFeatures + 1) * kLanes + 2 * s.channels);
  }
  // kOffsetFeatures vectors of pos_weight and one of pos_bias, lane by lane.
  SEGCORE_INLINE T* position(int64_t a) const { return data + a * (kOffsetFeatures + 1) * kLanes; }
  SEGCORE_INLINE T* blank_k(int64_t a) const {
    return data + heads * (kOffsetFeatures + 1) * kLanes + a * channels;
  }
  SEGCORE_INLINE T* blank_v(int64_t a) const { return blank_k(heads + a); }
};

// weights -> probabilities, grads of probabilities -> grads of logits; returns their mean.
template <typename T>
SEGCORE_INLINE T softmax_backward(
    T* weights, T* grads, int64_t count, T inverse_sum, T blank, T blank_grad) {
  T mean = 0;
#pragma omp simd reduction(+ : mean)
  for (int64_t s = 0; s < count; ++s) {
    weights[s] *= inverse_sum;
    mean += weights[s] * grads[s];
  }
  mean += blank * blank_grad;
#pragma omp simd
  for (int64_t s = 0; s < count; ++s) grads[s] = weights[s] * (grads[s] - mean);
  return mean;
}

// sums += gradients of the logits times what they are the factors of.
template <typename T>
SEGCORE_INLINE void add_position_gradient(
    const T* grads, const T* features, int64_t count, int64_t stride, T* sums) {
  Lanes<T> sum[kOffsetFeatures + 1];
  for (int64_t f = 0; f <= kOffsetFeatures; ++f) sum[f] = lanes(sums + f * kLanes);
  for (int64_t s = 0; s < count; s += kLanes) {
    const Lanes<T> grad = lanes(grads + s);
    for (int64_t f = 0; f < kOffsetFeatures; ++f) sum[f] += grad * lanes(features + f * stride + s);
    sum[kOffsetFeatures] += grad;
  }
  for (int64_t f = 0; f <= kOffsetFeatures; ++f) lanes(sums + f * kLanes) = sum[f];
}

template <typename T>
SEGCORE_INLINE void add_scaled(T factor, const T* row, int64_t count, T* sum) {
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) sum[c] += factor * row[c];
}

// Gradients of the queries [begin, end) of image n, their statistics, and the sums of parameters, with
// vectors V.
template <typename V, typename T>
SEGCORE_TARGET_CLONES void backward_tokens(
    const Inputs<T>& in,
    const Rows<const T>& grad_output,
    int64_t n,
    int64_t begin,
    int64_t end,
    Tile<T>& tile,
    T* grad_q,
    Statistics<T>* statistics,
    const ParameterSums<T>& sums) {
  const ClusterAttentionSizes& s = in.sizes;
  const int64_t channels = s.channels, blocks = in.blocks_per_token(), slots = in.slots_per_token();
  for (int64_t first = begin; first < end; first += tile.tokens) {
    const int64_t tokens = std::min(tile.tokens, end - first);
    for (int64_t t = 0; t < tokens; ++t) collect(in, n, first + t, tile_neighbors(in, tile, t));
    for (int64_t a = 0; a < s.heads; ++a) {
      const T *blank_k = in.blank_k + a * channels, *blank_v = in.blank_v + a * channels;
      for (int64_t t = 0; t < tokens; ++t) {
        const Neighbors<T> neighbors = tile_neighbors(in, tile, t);
        const int64_t i = first + t, item = (n * s.tokens + i) * s.heads + a;
        const T *q = in.q.row(n, i, a), *go = grad_output.row(n, i, a);
        T *weights = tile.weights.data(), *grads = tile.grads.data();

        const Softmax<T> softmax = attend<V>(in, n, i, a, neighbors, tile);
        const T inverse = 1 / softmax.sum, blank = softmax.blank * inverse;
        const T* values = in.v_lanes + in.lanes_offset(n, a, 0);
        dot_neighbors<V>(
            go, channels, values, neighbors.blocks, blocks, tile.repeated.data(), grads);
        const T blank_product = dot(go, blank_v, channels);
        const T mean = softmax_backward(weights, grads, slots, inverse, blank, blank_product);
        const T blank_grad = blank * (blank_product - mean);
        statistics[item] = {softmax.largest_logit + std::log(softmax.sum), mean};

        T* gq = grad_q + item * channels;
        for (int64_t c = 0; c < channels; ++c) gq[c] = blank_grad * blank_k[c];
        const T* keys = in.k.row(n, 0, a);
        add_rows<V>(in.block, neighbors.blocks, blocks, grads, keys, in.k.token, channels, gq);
        for (int64_t c = 0; c < channels; ++c) gq[c] *= in.scale;
        add_position_gradient(grads, neighbors.features, slots, slots, sums.position(a));
        add_scaled(blank_grad, q, channels, sums.blank_k(a));
        add_scaled(blank, go, channels, sums.blank_v(a));
      }
    }
  }
}

// Scratch memory of a thread for the queries of one block: the tokens that see it.
template <typename T>
struct QueryTile {
  T features[kQueries][kOffsetFeatures * kLanes];
  T weights[kQueries][kLanes];
  T grads[kQueries][kLanes];
  const T* q[kQueries];
  const T* grad_output[kQueries];
  std::vector<T> grad_k, grad_v;  // (heads, channels, kLanes)

  explicit QueryTile(const ClusterAttentionSizes& s)
      : grad_k(s.heads * s.channels * kLanes), grad_v(grad_k.size()) {}
};

// Products of kCount rows with the tokens of a block.
template <int kCount, typename T>
SEGCORE_INLINE void dot_rows(
    const T* const* rows, int64_t channels, const T* transposed, T (*products)[kLanes]) {
  Lanes<T> sum[kCount] = {};
  for (int64_t c = 0; c < channels; ++c) {
    const Lanes<T> channel = lanes(transposed + c * kLanes);
    for (int u = 0; u < kCount; ++u) sum[u] += rows[u][c] * channel;
  }
  for (int u = 0; u < kCount; ++u) lanes(products[u]) = sum[u];
}

template <typename T>
SEGCORE_INLINE void dot_queries(
    const T* const* rows,
    int64_t count,
    int64_t channels,
    const T* transposed,
    T (*products)[kLanes]) {
  int64_t u = 0;
  for (; u + kQueriesPerProduct <= count; u += kQueriesPerProduct) {
    dot_rows<kQueriesPerProduct>(rows + u, channels, transposed, products + u);
  }
  for (; u + 2 <= count; u += 2) dot_rows<2>(rows + u, channels, transposed, products + u);
  if (u < count) dot_rows<1>(rows + u, channels, transposed, products + u);
}

// sums (kCount channels, kLanes) += rows (queries, kCount channels) transposed times weights.
template <int kCount, typename T>
SEGCORE_INLINE void add_products_of_channels(
    const T* const* rows, int64_t c, const T (*weights)[kLanes], int64_t queries, T* sums) {
  Lanes<T> sum[kCount];
  for (int j = 0; j < kCount; ++j) sum[j] = lanes(sums + (c + j) * kLanes);
  for (int64_t u = 0; u < queries; ++u) {
    const Lanes<T> weight = lanes(weights[u]);
    for (int j = 0; j < kCount; ++j) sum[j] += rows[u][c + j] * weight;
  }
  for (int j = 0; j < kCount; ++j) lanes(sums + (c + j) * kLanes) = sum[j];
}

template <typename T>
SEGCORE_INLINE void add_products(
    const T* const* rows, const T (*weights)[kLanes], int64_t queries, int64_t channels, T* sums) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) add_products_of_channels<8>(rows, c, weights, queries, sums);
  for (; c < channels; ++c) add_products_of_channels<1>(rows, c, weights, queries, sums);
}

// Probabilities of the tokens of a block for each query, and the gradients of their logits.
template <typename T>
SEGCORE_INLINE void attend_block(
    const Inputs<T>& in,
    int64_t n,
    int64_t b,
    int64_t a,
    const int32_t* queries,
    int64_t count,
    const Statistics<T>* statistics,
    QueryTile<T>& tile) {
  const int64_t channels = in.sizes.channels;
  const T* keys = in.k_lanes + in.lanes_offset(n, a, b);
  const T* values = in.v_lanes + in.lanes_offset(n, a, b);
  const T* penalty = in.slots + ((n * in.blocks + b) * 3 + 2) * kLanes;
  const T* pos_weight = in.pos_weight + a * kOffsetFeatures;
  dot_queries(tile.q, count, channels, keys, tile.weights);
  dot_queries(tile.grad_output, count, channels, values, tile.grads);
  for (int64_t u = 0; u < count; ++u) {
    const Statistics<T> query = statistics[(n * in.sizes.tokens + queries[u]) * in.sizes.heads + a];
    const T offset = in.pos_bias[a] - query.log_sum;
    T *weights = tile.weights[u], *grads = tile.grads[u];
    const T* features = tile.features[u];
#pragma omp simd
    for (int64_t l = 0; l < kLanes; ++l) {
      const T logit = in.scale * weights[l] + pos_weight[0] * features[l] +
          pos_weight[1] * features[l + kLanes] + pos_weight[2] * features[l + 2 * kLanes] +
          pos_weight[3] * features[l + 3 * kLanes] + pos_weight[4] * features[l + 4 * kLanes] +
          offset + penalty[l];
      const T weight = exp_of_negative(logit);
      weights[l] = weight;
      grads[l] = weight * (grads[l] - query.mean);
    }
  }
}

// The sums (channels, kLanes) of one block and head as rows of tokens.
template <typename T>
SEGCORE_INLINE void write_rows(
    const T* sums, T scale, const Block& block, int64_t channels, int64_t stride, T* rows) {
  for (int64_t l = 0; l < block.tokens; ++l) {
    T* row = rows + (block.first_token + l) * stride;
    for (int64_t c = 0; c < channels; ++c) row[c] = scale * sums[c * kLanes + l];
  }
}

// Gradients of the keys and values of block b of image n.
template <typename T>
SEGCORE_TARGET_CLONES void backward_block(
    const Inputs<T>& in,
    const Rows<const T>& grad_output,
    const Statistics<T>* statistics,
    int64_t n,
    int64_t b,
    const int32_t* queries,
    int64_t num_queries,
    QueryTile<T>& tile,
    T* grad_k,
    T* grad_v) {
  const ClusterAttentionSizes& s = in.sizes;
  const T* slots = in.slots + (n * in.blocks + b) * 3 * kLanes;
  const T* positions = in.positions + n * s.tokens * 2;
  std::fill(tile.grad_k.begin(), tile.grad_k.end(), T(0));
  std::fill(tile.grad_v.begin(), tile.grad_v.end(), T(0));
  for (int64_t first = 0; first < num_queries; first += kQueries) {
    const int64_t count = std::min(kQueries, num_queries - first);
    for (int64_t u = 0; u < count; ++u) {
      const T* position = positions + 2 * queries[first + u];
      write_features(
          position[0], position[1], slots, slots + kLanes, kLanes, kLanes, tile.features[u]);
    }
    for (int64_t a = 0; a < s.heads; ++a) {
      for (int64_t u = 0; u < count; ++u) {
        tile.q[u] = in.q.row(n, queries[first + u], a);
        tile.grad_output[u] = grad_output.row(n, queries[first + u], a);
      }
      attend_block(in, n, b, a, queries + first, count, statistics, tile);
      T* sums_k = tile.grad_k.data() + a * s.channels * kLanes;
      T* sums_v = tile.grad_v.data() + a * s.channels * kLanes;
      add_products(tile.q, tile.grads, count, s.channels, sums_k);
      add_products(tile.grad_output, tile.weights, count, s.channels, sums_v);
    }
  }
  for (int64_t a = 0; a < s.heads; ++a) {
    const int64_t row = (n * s.tokens * s.heads + a) * s.channels, stride = s.heads * s.channels;
    const T* sums_k = tile.grad_k.data() + a * s.channels * kLanes;
    const T* sums_v = tile.grad_v.data() + a * s.channels * kLanes;
    write_rows(sums_k, in.scale, in.block[b], s.channels, stride, grad_k + row);
    write_rows(sums_v, T(1), in.block[b], s.channels, stride, grad_v + row);
  }
}

template <typename T>
struct Gradients {
  T *q, *k, *v, *pos_weight, *pos_bias, *blank_k, *blank_v;
};

// Adds up the sums of all chunks, in their order, in float64.
template <typename T>
void add_up(const Inputs<T>& in, const std::vector<T>& chunks, const Gradients<T>& grad) {
  const ClusterAttentionSizes& s = in.sizes;
  const int64_t size = ParameterSums<T>::size(s);
  std::vector<double> total(size);
  for (size_t first = 0; first < chunks.size(); first += size) {
    for (int64_t j = 0; j < size; ++j) total[j] += chunks[first + j];
  }
  const ParameterSums<double> sums = {total.data(), s.heads, s.channels};
  for (int64_t a = 0; a < s.heads; ++a) {
    for (int64_t f = 0; f <= kOffsetFeatures; ++f) {
      const double* lane_sums = sums.position(a) + f * kLanes;
      double sum = 0;
      for (int64_t l = 0; l < kLanes; ++l) sum += lane_sums[l];
      T& target = f < kOffsetFeatures ? grad.pos_weight[a * kOffsetFeatures + f] : grad.pos_bias[a];
      target = static_cast<T>(sum);
    }
    for (int64_t c = 0; c < s.channels; ++c) {
      grad.blank_k[a * s.channels + c] = static_cast<T>(in.scale * sums.blank_k(a)[c]);
      grad.blank_v[a * s.channels + c] = static_cast<T>(sums.blank_v(a)[c]);
    }
  }
}

template <typename T>
void backward(
    const Inputs<T>& in,
    const Rows<const T>& grad_output,
    const int32_t* indices,
    const int64_t* offsets,
    const Gradients<T>& grad) {
  const ClusterAttentionSizes& s = in.sizes;
  const int64_t chunks = (s.tokens + kChunk - 1) / kChunk, size = ParameterSums<T>::size(s);
  std::vector<Statistics<T>> statistics(s.batch * s.tokens * s.heads);
  std::vector<T> sums(s.batch * chunks * size);
  const auto run_tokens =
      has_wide_registers() ? backward_tokens<Wide<T>, T> : backward_tokens<Lanes<T>, T>;
  torch::stable::parallel_for(0, s.batch * chunks, 1, [&](int64_t begin, int64_t end) {
    Tile<T> tile(in);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % chunks * kChunk, last = std::min(first + kChunk, s.tokens);
      run_tokens(
          in, grad_output, item / chunks, first, last, tile, grad.q, statistics.data(),
          ParameterSums<T>{sums.data() + item * size, s.heads, s.channels});
    }
  });
  add_up(in, sums, grad);
  torch::stable::parallel_for(0, s.batch * in.blocks, 1, [&](int64_t begin, int64_t end) {
    QueryTile<T> tile(s);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / in.blocks, b = item % in.blocks;
      const int64_t* offset = offsets + n * (s.clusters() + 1) + b / in.blocks_per_cluster;
      const int32_t* queries = indices + n * s.tokens * s.clusters_per_token + offset[0];
      backward_block(
          in, grad_output, statistics.data(), n, b, queries, offset[1] - offset[0], tile, grad.k,
          grad.v);
    }
  });
}

// Refuses inverse lists that would lead out of the tensors.
void check_range(const ClusterAttentionSizes& s, const InverseClusters& inverse) {
  const Tensor &indices = inverse.indices, &offsets = inverse.offsets;
  check_index_range(
      "indices", indices.const_data_ptr<int32_t>(), indices.numel(), 0, s.tokens);
  const int64_t* offset = offsets.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < s.batch; ++n, offset += s.clusters() + 1) {
    bool ascend = offset[0] == 0 && offset[s.clusters()] == s.tokens * s.clusters_per_token;
    for (int64_t j = 0; j < s.clusters(); ++j) ascend = ascend && offset[j] <= offset[j + 1];
    STD_TORCH_CHECK(ascend, "offsets: expected to ascend from 0 to the number of indices");
  }
}

ClusterAttentionGradients run(
    const Tensor& grad_output,
    const ClusterAttentionArguments& a,
    const ClusterAttentionSizes& s) {
  const InverseClusters inverse(a, s);
  check_range(s, inverse);
  const ScalarType type = a.q.scalar_type(), precision = accumulation_type(type);
  const Prepared prepared(a, s, /*for_backward=*/true);
  const Tensor upstream = with_rows(torch::stable::to(grad_output, precision));
  const auto empty = [&](const Tensor& argument) {
    return torch::stable::new_empty(argument, argument.sizes(), precision);
  };
  Tensor grad_q = empty(a.q), grad_k = empty(a.k), grad_v = empty(a.v);
  Tensor grad_pos_weight = empty(a.pos_weight), grad_pos_bias = empty(a.pos_bias);
  Tensor grad_blank_k = empty(a.blank_k), grad_blank_v = empty(a.blank_v);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    backward<T>(
        prepared.inputs<T>(), rows_of<T>(upstream, s.channels),
        inverse.indices.const_data_ptr<int32_t>(), inverse.offsets.const_data_ptr<int64_t>(),
        {grad_q.mutable_data_ptr<T>(), grad_k.mutable_data_ptr<T>(), grad_v.mutable_data_ptr<T>(),
         grad_pos_weight.mutable_data_ptr<T>(), grad_pos_bias.mutable_data_ptr<T>(),
         grad_blank_k.mutable_data_ptr<T>(), grad_blank_v.mutable_data_ptr<T>()});
  });
  return {
      torch::stable::to(grad_q, type), torch::stable::to(grad_k, type),
      torch::stable::to(grad_v, type), grad_pos_weight, grad_pos_bias, grad_blank_k, grad_blank_v};
}

}  // namespace
}  // namespace segcore::cluster_attention

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  using namespace segcore;
  library.impl(
      "cluster_attention_backward",
      TORCH_BOX(&ClusterAttention::backward<cluster_attention::run>));
}
