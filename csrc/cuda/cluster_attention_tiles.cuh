// Kernels of attention over clusters by tensor cores (tensor_core.cuh has the layout of tiles). A warp works on
// 16 neighboring tokens of one head, the rows of its tiles, and goes through the clusters that any of them
// sees, 8 tokens at a time, the columns: keys and values are read once for all rows, straight into the
// registers in which they are multiplied. Logits of columns that a row does not see are -inf. In the gradients
// of keys and values, rows are the keys of a cluster and columns the queries that see it. Nothing is written by
// two warps, and all sums have a fixed order.
#pragma once

#include <cmath>
#include <limits>

#include "cluster_attention.cuh"
#include "tensor_core.cuh"

namespace segcore::cluster_attention {

constexpr int kTileRows = 16, kTileColumns = 8;
constexpr float kUnseen = -std::numeric_limits<float>::infinity();

// Tiles of an image in the kernels over queries, and in that over keys, where a tile is a part of a cluster.
C10_HOST_DEVICE inline int64_t tiles_of(int64_t tokens) {
  return (tokens + kTileRows - 1) / kTileRows;
}
C10_HOST_DEVICE inline int64_t query_tiles(const ClusterAttentionSizes& s) {
  return tiles_of(s.tokens);
}
C10_HOST_DEVICE inline int64_t tiles_of_cluster(const ClusterAttentionSizes& s) {
  return tiles_of(s.cluster_size < s.tokens ? s.cluster_size : s.tokens);
}
C10_HOST_DEVICE inline int64_t key_tiles(const ClusterAttentionSizes& s) {
  return s.clusters() * tiles_of_cluster(s);
}
// Blocks: a warp has a tile of one head, those of a block neighboring tiles.
C10_HOST_DEVICE inline int64_t tile_blocks(const ClusterAttentionSizes& s, int64_t tiles) {
  return s.batch * ((tiles + kWarpsOfBlock - 1) / kWarpsOfBlock) * s.heads;
}

// The tile of a warp: its image and head, its rows, and the place of the lane.
struct Tile {
  int n, a, index, g, t;
  int token[2];  // of rows g and g + 8 of the lane, the last one where there is none
  bool exists[2];

  __device__ Tile(const ClusterAttentionSizes& s, int64_t tiles) {
    const unsigned heads = static_cast<unsigned>(s.heads);
    const unsigned blocks = static_cast<unsigned>((tiles + kWarpsOfBlock - 1) / kWarpsOfBlock);
    a = static_cast<int>(blockIdx.x % heads);
    n = static_cast<int>(blockIdx.x / heads / blocks);
    index = static_cast<int>(blockIdx.x / heads % blocks) * kWarpsOfBlock + warp_of_block();
    g = lane_of_warp() / 4;
    t = lane_of_warp() % 4;
  }
  __device__ void set_rows(int first, int end) {
    SEGCORE_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = first + g + r * kTileColumns;
      exists[r] = row < end;
      token[r] = exists[r] ? row : end - 1;
    }
  }
  // Of a row of the lane among tokens and heads of the batch.
  __device__ int64_t triple(const ClusterAttentionSizes& s, int r) const {
    return (n * s.tokens + token[r]) * s.heads + a;
  }
};

// Rows of one image and head; a product of 32 bits with a result of 64 is one instruction.
template <typename T>
struct TokenRows {
  const T* data;
  int stride;

  __device__ TokenRows(const Rows<const T>& rows, const Tile& tile)
      : data(rows.row(tile.n, 0, tile.a)), stride(static_cast<int>(rows.token)) {}
  __device__ const T* operator[](int token) const {
    return data + static_cast<int64_t>(token) * stride;
  }
};

// A quarter of the channels of each of the lane's rows: those from t * kSlice on.
template <int kSlice>
struct RowSlices {
  float values[2][kSlice];

  template <typename T>
  __device__ RowSlices(const TokenRows<T>& rows, const Tile& tile) {
    SEGCORE_UNROLL
    for (int r = 0; r < 2; ++r) load_many(rows[tile.token[r]] + tile.t * kSlice, values[r]);
  }
  // Products with the row at `other`, known to the four lanes of a row.
  __device__ float dot(int r, const float* other, const Tile& tile) const {
    float sum = 0;
    for (int c = 0; c < kSlice; ++c) sum += values[r][c] * other[tile.t * kSlice + c];
    return sum_of_lanes<4>(sum);
  }
};

// Products of the rows with the columns; the lane reads its quarter of column g, at `column`.
template <typename T, int kSlice>
__device__ inline void multiply_rows(
    const RowSlices<kSlice>& rows, const T* column, const Tile& tile, float (&products)[4]) {
  float values[kSlice];
  load_many(column + tile.t * kSlice, values);
  SEGCORE_UNROLL
  for (float& product : products) product = 0;
  SEGCORE_UNROLL
  for (int c = 0; c < kSlice; c += 2) {
    const float left[] = {
        rows.values[0][c], rows.values[0][c + 1], rows.values[1][c], rows.values[1][c + 1]};
    const float right[] = {values[c], values[c + 1]};
    add_tile_product(products, Factors<T, 4>(left, true), Factors<T, 2>(right, true));
  }
}

// Sums of rows of channels, kTiles * 8 of them, for each row of the tile.
template <int kTiles>
struct RowSums {
  float tiles[kTiles][4] = {};

  // += weights (16 x 8) times the columns; the lane reads its eighth of columns 2 t and 2 t + 1.
  template <typename T>
  __device__ void add(const float (&weights)[4], const T* first, const T* second, int g) {
    float values[2][kTiles];
    load_many(first + g * kTiles, values[0]);
    load_many(second + g * kTiles, values[1]);
    const Factors<T, 4> left(weights, false);
    SEGCORE_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      const float right[] = {values[0][j], values[1][j]};
      add_tile_product(tiles[j], left, Factors<T, 2>(right, true));
    }
  }
  __device__ void scale(int r, float factor) {
    SEGCORE_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      for (int p = 0; p < 2; ++p) tiles[j][2 * r + p] *= factor;
    }
  }
  // Channels from t * 2 * kTiles on of a row of the lane, times `factor`.
  __device__ void slice(int r, float factor, float (&values)[2 * kTiles]) const {
    SEGCORE_UNROLL
    for (int c = 0; c < 2 * kTiles; ++c) values[c] = factor * tiles[c % kTiles][2 * r + c / kTiles];
  }
};

// The clusters that the rows of a tile see, smallest first: the lists of the rows are merged, one row a
// lane, and lanes 16 to 31 do the same as 0 to 15. A cluster that a row lists twice comes twice.
class ClustersOfTile {
 public:
  template <typename T>
  __device__ ClustersOfTile(const Inputs<T>& in, const Tile& tile)
      : length_(static_cast<int>(in.sizes.clusters_per_token)),
        count_(static_cast<int>(in.sizes.clusters())) {
    const int64_t row = int64_t{tile.index} * kTileRows + lane_of_warp() % kTileRows;
    if (row >= in.sizes.tokens) return;
    list_ = in.clusters + (tile.n * in.sizes.tokens + row) * length_;
    cluster_ = -1;
    advance();
  }
  // The next cluster and the rows that see it, a bit each; false if there is none.
  __device__ bool next(int& cluster, unsigned& rows) {
    cluster = __reduce_min_sync(kWholeWarp, cluster_);
    if (cluster == kNone) return false;
    rows = __ballot_sync(kWholeWarp, cluster_ == cluster);
    if (cluster_ == cluster) advance();
    __syncwarp();  // products of tiles are for whole warps
    return true;
  }

 private:
  static constexpr int kNone = std::numeric_limits<int>::max();

  // To the next of the list in the order of clusters, then slots.
  __device__ void advance() {
    int best = kNone, best_slot = kNone;
    for (int slot = 0; slot < length_; ++slot) {
      const int cluster = list_[slot];
      const bool later = cluster > cluster_ || (cluster == cluster_ && slot > slot_);
      if (!later || cluster >= count_ || cluster >= best) continue;
      best = cluster;
      best_slot = slot;
    }
    cluster_ = best;
    slot_ = best_slot;
  }

  const int* list_ = nullptr;
  int length_, count_;
  int cluster_ = kNone, slot_ = kNone;
};

// Eight keys or fewer, as columns, and the rows that see them.
struct Columns {
  int first, count;
  unsigned rows;

  __device__ int token(int column) const { return first + (column < count ? column : count - 1); }
  __device__ bool is_seen(int row, int column) const {
    return (rows >> row & 1) != 0 && column < count;
  }
};

// Calls `visit` with the Columns of all clusters that the tile sees.
template <typename T, typename Visit>
__device__ inline void for_columns(const Inputs<T>& in, const Tile& tile, const Visit& visit) {
  const int cluster_size = static_cast<int>(in.sizes.cluster_size);
  const int tokens = static_cast<int>(in.sizes.tokens);
  ClustersOfTile clusters(in, tile);
  int cluster;
  unsigned rows;
  while (clusters.next(cluster, rows)) {
    const int first = cluster * cluster_size, rest = tokens - first;
    const int count = rest < cluster_size ? rest : cluster_size;
    for (int j = 0; j < count; j += kTileColumns) {
      visit(Columns{first + j, count - j < kTileColumns ? count - j : kTileColumns, rows});
    }
  }
}

// Offsets between the rows of a tile and the columns, from queries to keys.
template <bool kRowsAreKeys>
struct TileOffsets {
  using Position = Pack<float, 2>;
  const float* positions;  // of the image
  Position rows[2];

  template <typename T>
  __device__ TileOffsets(const Inputs<T>& in, const Tile& tile)
      : positions(in.positions + tile.n * in.sizes.tokens * 2),
        rows{of(tile.token[0]), of(tile.token[1])} {}

  __device__ Position of(int token) const {
    return *reinterpret_cast<const Position*>(positions + 2 * static_cast<int64_t>(token));
  }
  __device__ OffsetFeatures<float> features(int r, const Position& column) const {
    const float x = column.values[0] - rows[r].values[0];
    const float y = column.values[1] - rows[r].values[1];
    return device_offset_features(kRowsAreKeys ? -x : x, kRowsAreKeys ? -y : y);
  }
};

// Queries as the rows of a tile.
template <typename T, int kChannels>
struct QueryTile {
  static constexpr int kSlice = kChannels / 4;

  const TokenRows<T> keys;
  const RowSlices<kSlice> queries;
  const TileOffsets<false> offsets;
  const PositionBias<float> bias;
  const float scale;

  __device__ QueryTile(const Inputs<T>& in, const Tile& tile)
      : keys(in.k, tile),
        queries(TokenRows<T>(in.q, tile), tile),
        offsets(in, tile),
        bias(in, tile.n, tile.a),
        scale(in.scale) {}

  __device__ void logits(const Tile& tile, const Columns& columns, float (&logits)[4]) const {
    multiply_rows(queries, keys[columns.token(tile.g)], tile, logits);
    SEGCORE_UNROLL
    for (int p = 0; p < 2; ++p) {
      const int column = 2 * tile.t + p;
      const auto position = offsets.of(columns.token(column));
      SEGCORE_UNROLL
      for (int r = 0; r < 2; ++r) {
        const float logit = scale * logits[2 * r + p] + bias(offsets.features(r, position));
        const bool seen = columns.is_seen(tile.g + r * kTileColumns, column);
        logits[2 * r + p] = seen ? logit : kUnseen;
      }
    }
  }
};

template <typename T, int kChannels>
__global__ void forward_tiles_kernel(const Inputs<T> in, T* output) {
  constexpr int kSlice = kChannels / 4;
  Tile tile(in.sizes, query_tiles(in.sizes));
  if (tile.index >= query_tiles(in.sizes)) return;
  tile.set_rows(tile.index * kTileRows, static_cast<int>(in.sizes.tokens));
  const QueryTile<T, kChannels> query(in, tile);
  const TokenRows<T> v(in.v, tile);
  const float* blank_k = in.blank_k + tile.a * kChannels;
  const float* blank_v = in.blank_v + tile.a * kChannels;
  RowSums<kChannels / 8> part;
  float largest[2], sum[2], blank_weight[2];
  SEGCORE_UNROLL
  for (int r = 0; r < 2; ++r) {
    largest[r] = query.scale * query.queries.dot(r, blank_k, tile);
    sum[r] = 0;
    blank_weight[r] = 1;
  }
  for_columns(in, tile, [&](const Columns& columns) {
    float weights[4];
    query.logits(tile, columns, weights);
    SEGCORE_UNROLL
    for (int r = 0; r < 2; ++r) {
      float(&first) = weights[2 * r], (&second) = weights[2 * r + 1];
      const float before = largest[r];
      largest[r] = fmaxf(before, max_of_lanes<4>(fmaxf(first, second)));
      const float shrink = std::exp(before - largest[r]);
      first = std::exp(first - largest[r]);
      second = std::exp(second - largest[r]);
      sum[r] = sum[r] * shrink + first + second;
      blank_weight[r] *= shrink;
      part.scale(r, shrink);
    }
    const int c = 2 * tile.t;
    part.add(weights, v[columns.token(c)], v[columns.token(c + 1)], tile.g);
  });
  SEGCORE_UNROLL
  for (int r = 0; r < 2; ++r) {
    const float inverse = 1 / (blank_weight[r] + sum_of_lanes<4>(sum[r]));
    float values[kSlice];
    part.slice(r, inverse, values);
    SEGCORE_UNROLL
    for (int c = 0; c < kSlice; ++c) {
      values[c] += inverse * blank_weight[r] * blank_v[tile.t * kSlice + c];
    }
    if (tile.exists[r]) {
      store_many(output + tile.triple(in.sizes, r) * kChannels + tile.t * kSlice, values);
    }
  }
}

// Blocks of the backward that a multiprocessor is to hold: with two, a lane has 128 registers.
template <typename T, int kChannels>
constexpr int kBlocksAtOnce = kChannels * sizeof(T) <= 64 ? 2 : 1;

template <typename T, int kChannels>
__global__ void __launch_bounds__(kThreadsOfBlock, kBlocksAtOnce<T, kChannels>)
backward_queries_tiles_kernel(const BackwardInputs<T> all, T* grad_q, TokenSums<float>* sums) {
  constexpr int kSlice = kChannels / 4;
  const Inputs<T>& in = all.forward;
  Tile tile(in.sizes, query_tiles(in.sizes));
  if (tile.index >= query_tiles(in.sizes)) return;
  tile.set_rows(tile.index * kTileRows, static_cast<int>(in.sizes.tokens));
  const QueryTile<T, kChannels> query(in, tile);
  const TokenRows<T> v(in.v, tile);
  const RowSlices<kSlice> go(TokenRows<T>(all.grad_output, tile), tile);
  const float* blank_k = in.blank_k + tile.a * kChannels;
  const float* blank_v = in.blank_v + tile.a * kChannels;

  float blank[2];
  SoftmaxSums<float, 4> softmax[2];
  SEGCORE_UNROLL
  for (int r = 0; r < 2; ++r) {
    blank[r] = query.scale * query.queries.dot(r, blank_k, tile);
    softmax[r].largest = blank[r];
  }
  for_columns(in, tile, [&](const Columns& columns) {
    float logits[4], products[4];
    query.logits(tile, columns, logits);
    multiply_rows(go, v[columns.token(tile.g)], tile, products);
    SEGCORE_UNROLL
    for (int r = 0; r < 2; ++r) {
      softmax[r].add({logits[2 * r], logits[2 * r + 1]}, {products[2 * r], products[2 * r + 1]});
    }
  });
  TokenSums<float> token_sums[2];
  SEGCORE_UNROLL
  for (int r = 0; r < 2; ++r) {
    token_sums[r] = softmax[r].total(blank[r], go.dot(r, blank_v, tile));
  }

  RowSums<kChannels / 8> part;
  for_columns(in, tile, [&](const Columns& columns) {
    float grads[4], products[4];
    query.logits(tile, columns, grads);
    multiply_rows(go, v[columns.token(tile.g)], tile, products);
    const int tokens[] = {columns.token(2 * tile.t), columns.token(2 * tile.t + 1)};
    SEGCORE_UNROLL
    for (int p = 0; p < 2; ++p) {
      const auto position = query.offsets.of(tokens[p]);
      SEGCORE_UNROLL
      for (int r = 0; r < 2; ++r) {
        float& grad = grads[2 * r + p];
        TokenSums<float>& row = token_sums[r];
        grad = std::exp(grad - row.log_sum) * (products[2 * r + p] - row.mean);
        add_features(grad, query.offsets.features(r, position), row.position);
      }
    }
    part.add(grads, query.keys[tokens[0]], query.keys[tokens[1]], tile.g);
  });
  SEGCORE_UNROLL
  for (int r = 0; r < 2; ++r) {
    for (float& number : token_sums[r].position) number = sum_of_lanes<4>(number);
    float values[kSlice];
    part.slice(r, query.scale, values);
    const float factor = query.scale * token_sums[r].blank_grad;
    for (int c = 0; c < kSlice; ++c) values[c] += factor * blank_k[tile.t * kSlice + c];
    if (!tile.exists[r]) continue;
    const int64_t triple = tile.triple(in.sizes, r);
    store_many(grad_q + triple * kChannels + tile.t * kSlice, values);
    if (tile.t == 0) sums[triple] = token_sums[r];
  }
}

template <typename T, int kChannels>
__global__ void __launch_bounds__(kThreadsOfBlock, kBlocksAtOnce<T, kChannels>)
backward_keys_tiles_kernel(
    const BackwardInputs<T> all, const TokenSums<float>* sums, T* grad_k, T* grad_v) {
  constexpr int kSlice = kChannels / 4;
  const Inputs<T>& in = all.forward;
  const ClusterAttentionSizes& s = in.sizes;
  Tile tile(s, key_tiles(s));
  if (tile.index >= key_tiles(s)) return;
  const int parts = static_cast<int>(tiles_of_cluster(s)), cluster = tile.index / parts;
  const int cluster_size = static_cast<int>(s.cluster_size), tokens = static_cast<int>(s.tokens);
  const int begin = cluster * cluster_size + tile.index % parts * kTileRows;
  const int rest = tokens - cluster * cluster_size;
  const int end = cluster * cluster_size + (rest < cluster_size ? rest : cluster_size);
  if (begin >= end) return;
  tile.set_rows(begin, end);
  const RowSlices<kSlice> k(TokenRows<T>(in.k, tile), tile), v(TokenRows<T>(in.v, tile), tile);
  const TokenRows<T> q(in.q, tile), go(all.grad_output, tile);
  const TileOffsets<true> offsets(in, tile);
  const PositionBias<float> bias(in, tile.n, tile.a);
  const int64_t* offset = all.offsets + tile.n * (s.clusters() + 1) + cluster;
  const int32_t* queries = all.indices + tile.n * s.tokens * s.clusters_per_token + offset[0];
  const int count = static_cast<int>(offset[1] - offset[0]);
  const TokenSums<float>* head_sums = sums + tile.n * s.tokens * s.heads + tile.a;
  const int heads = static_cast<int>(s.heads);
  const int halves = end - begin > kTileColumns ? 2 : 1;  // of the rows, with a token
  RowSums<kChannels / 8> part_k, part_v;
  for (int first = 0; first < count; first += kTileColumns) {
    const auto query = [&](int column) {
      return queries[first + column < count ? first + column : count - 1];
    };
    const int of_products = query(tile.g);
    float weights[4], grads[4];
    multiply_rows(k, q[of_products], tile, weights);
    multiply_rows(v, go[of_products], tile, grads);
    const int pair[] = {query(2 * tile.t), query(2 * tile.t + 1)};
    SEGCORE_UNROLL
    for (int p = 0; p < 2; ++p) {
      const TokenSums<float>& query_sums = head_sums[static_cast<int64_t>(pair[p]) * heads];
      const float mean = query_sums.mean;
      const float log_sum =
          first + 2 * tile.t + p < count ? query_sums.log_sum : -kUnseen;  // weight 0
      const auto position = offsets.of(pair[p]);
      SEGCORE_UNROLL
      for (int r = 0; r < 2; ++r) {
        if (r >= halves) continue;
        float &weight = weights[2 * r + p], &grad = grads[2 * r + p];
        weight = std::exp(in.scale * weight + bias(offsets.features(r, position)) - log_sum);
        grad = weight * (grad - mean);
      }
    }
    part_v.add(weights, go[pair[0]], go[pair[1]], tile.g);
    part_k.add(grads, q[pair[0]], q[pair[1]], tile.g);
  }
  SEGCORE_UNROLL
  for (int r = 0; r < 2; ++r) {
    if (!tile.exists[r]) continue;
    const int64_t begin_of_slice = tile.triple(s, r) * kChannels + tile.t * kSlice;
    float values[kSlice];
    part_k.slice(r, in.scale, values);
    store_many(grad_k + begin_of_slice, values);
    part_v.slice(r, 1, values);
    store_many(grad_v + begin_of_slice, values);
  }
}

}  // namespace segcore::cluster_attention
