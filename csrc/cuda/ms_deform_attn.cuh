// Kernels of multi-scale deformable attention. A warp works on kQueriesOfWarp neighboring queries of one
// head. Each lane prepares one of their samples, kChunk of every query at a time, and shares it in
// shared memory; then kLanes lanes gather the corners for one query, kVector neighboring channels each.
// Nothing here knows of PyTorch's tensors, so that tests/csrc can run the kernels without a GPU.
//
// Offset: integer type of offsets within an image, of 32 bits where sizes allow.
#pragma once

#include "../common/bilinear.h"
#include "../common/ms_deform_attn_sizes.h"
#include "../common/unroll.h"
#include "inverse_lists.cuh"
#include "warp.cuh"

namespace segcore::ms_deform_attn {

// The levels travel in the kernel's parameters, so that nothing has to be copied to the device.
constexpr int kMaxLevels = 64;

constexpr int kQueriesOfWarp = 8, kChunk = kWarp / kQueriesOfWarp;

// Queries of a block: a square of cells if the queries are the cells of the map, so that neighbors find
// each other's corners in the cache, otherwise a row.
constexpr int kTileHeight = kWarpsOfBlock, kTileWidth = kQueriesOfWarp;
constexpr int kTile = kTileHeight * kTileWidth;

template <typename Offset>
C10_HOST_DEVICE inline Offset tiles_along(Offset size, int tile) {
  return (size + tile - 1) / tile;
}

template <typename T>
struct Inputs {
  using A = Accumulator<T>;

  MsDeformAttnSizes sizes;
  Level level[kMaxLevels];
  const T* value;      // (batch, tokens, heads, channels)
  const A* locations;  // (batch, queries, heads, levels, points, 2)
  const A* weights;    // (batch, queries, heads, levels, points)

  unsigned tiles;      // of an image

  // Self-attention of an encoder, by all appearances: results do not depend on it.
  C10_HOST_DEVICE bool queries_are_cells() const { return sizes.queries == sizes.tokens; }
  C10_HOST_DEVICE int64_t triples() const { return sizes.batch * sizes.queries * sizes.heads; }
};

// The queries of a warp: `count` neighbors, of image n and head m.
template <typename Offset>
struct WarpQueries {
  int64_t n;
  Offset m, first, count;

  template <typename T>
  __device__ explicit WarpQueries(const Inputs<T>& in) {
    const unsigned heads = static_cast<unsigned>(in.sizes.heads);
    m = static_cast<Offset>(blockIdx.x % heads);
    n = blockIdx.x / heads / in.tiles;
    Offset tile = static_cast<Offset>(blockIdx.x / heads % in.tiles), end;
    if (in.queries_are_cells()) {
      for (int l = 0;; ++l) {
        const Offset height = static_cast<Offset>(in.level[l].height);
        const Offset width = static_cast<Offset>(in.level[l].width);
        const Offset columns = tiles_along(width, kTileWidth);
        const Offset count = tiles_along(height, kTileHeight) * columns;
        if (tile >= count) {
          tile -= count;
          continue;
        }
        const Offset y = tile / columns * kTileHeight + warp_of_block();
        const Offset row = static_cast<Offset>(in.level[l].first_token) + y * width;
        first = row + tile % columns * kTileWidth;
        end = y < height ? row + width : first;
        break;
      }
    } else {
      first = tile * kTile + warp_of_block() * kQueriesOfWarp;
      end = static_cast<Offset>(in.sizes.queries);
    }
    count = end < first ? 0 : end - first < kQueriesOfWarp ? end - first : kQueriesOfWarp;
  }
};

// What lanes share of a sample: its corners' weights, and offsets from the first channel of the head in
// the image; the first is negative if the sample does not touch the map.
template <typename A, typename Offset>
struct alignas(16) Corners {
  A weight[4];
  Offset offset[4];
};

// A sample as the lane that prepares it knows it.
template <typename A, typename Offset>
struct LaneSample {
  Offset index = -1;  // among the samples of an image; negative if there is none
  A width = 0, height = 0, attention = 0;
  AxisSample<A> x = {}, y = {};
};

// The samples of a warp, kChunk of each query after the other: lane l prepares number l / kQueriesOfWarp
// of query l % kQueriesOfWarp.
template <typename T, typename Offset>
struct SampleReader {
  using A = Accumulator<T>;

  const A *locations, *weights;  // of the image
  Offset index, count, number;   // of this lane: next sample, samples of its query, number among them
  Offset level, point;

  __device__ SampleReader(const Inputs<T>& in, const WarpQueries<Offset>& queries, int lane) {
    const Offset query = lane % kQueriesOfWarp, samples = static_cast<Offset>(in.sizes.samples());
    weights = in.weights + queries.n * in.sizes.queries * in.sizes.heads * in.sizes.samples();
    locations = in.locations + 2 * (weights - in.weights);
    number = lane / kQueriesOfWarp;
    count = query < queries.count ? samples : 0;
    const Offset heads = static_cast<Offset>(in.sizes.heads);
    index = ((queries.first + query) * heads + queries.m) * samples + number;
    level = 0;
    point = number;
  }

  __device__ LaneSample<A, Offset> next(const Inputs<T>& in, Corners<A, Offset>& corners) {
    LaneSample<A, Offset> sample;
    corners.offset[0] = -1;
    if (number < count) {
      const Offset points = static_cast<Offset>(in.sizes.points);
      for (; point >= points; point -= points) ++level;
      sample.index = index;
      prepare(in, in.level[level], sample, corners);
    }
    number += kChunk;
    index += kChunk;
    point += kChunk;
    return sample;
  }

 private:
  __device__ void prepare(
      const Inputs<T>& in,
      const Level& level,
      LaneSample<A, Offset>& sample,
      Corners<A, Offset>& corners) const {
    A location[2];
    load(locations + 2 * sample.index, location);
    const int width = static_cast<int>(level.width), height = static_cast<int>(level.height);
    sample.width = static_cast<A>(width);
    sample.height = static_cast<A>(height);
    const A x = cell_position(location[0], width), y = cell_position(location[1], height);
    if (!touches_map(x, width) || !touches_map(y, height)) return;
    sample.x = sample_axis(x, width);
    sample.y = sample_axis(y, height);
    sample.attention = weights[sample.index];
    const Offset stride = static_cast<Offset>(in.sizes.heads * in.sizes.channels);
    for (int k = 0; k < 4; ++k) {
      const Offset cell_x = static_cast<Offset>(sample.x.cell[k % 2]);
      const Offset cell_y = static_cast<Offset>(sample.y.cell[k / 2]);
      const Offset token = static_cast<Offset>(level.first_token) + cell_y * width + cell_x;
      corners.offset[k] = token * stride;
      corners.weight[k] = sample.attention * sample.y.weight[k / 2] * sample.x.weight[k % 2];
    }
  }
};

// How the lanes of a warp share its queries: kLanes lanes a query, kPasses queries one after the other.
template <int kLanes>
struct Sharing {
  static constexpr int kGroups = kWarp / kLanes;
  static_assert(kQueriesOfWarp % kGroups == 0);
  static constexpr int kPasses = kQueriesOfWarp / kGroups;

  int lane = lane_of_warp() % kLanes, group = lane_of_warp() / kLanes;

  __device__ int query(int pass) const { return pass * kGroups + group; }
};

// Part of the samples of a chunk.
template <typename T>
__device__ inline int samples_of_chunk(const Inputs<T>& in, int64_t first) {
  return chunk_size<kChunk>(in.sizes.samples(), first);
}

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  using S = Sharing<kLanes>;
  __shared__ Corners<A, Offset> shared[kWarpsOfBlock][kWarp];
  Corners<A, Offset>* const corners = shared[warp_of_block()];
  const WarpQueries<Offset> queries(in);
  if (queries.count == 0) return;
  const S sharing;
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset samples = static_cast<Offset>(in.sizes.samples());
  const Offset heads = static_cast<Offset>(in.sizes.heads);
  const T* value = in.value + queries.n * in.sizes.tokens * heads * channels;
  output += queries.n * in.sizes.queries * heads * channels;
  for (Offset start = 0; start < channels; start += kVector * kLanes) {
    const Offset channel = start + sharing.lane * kVector;
    const T* const head = value + queries.m * channels + channel;
    const bool reads = channel < channels;
    A sum[S::kPasses][kVector] = {};
    SampleReader<T, Offset> reader(in, queries, lane_of_warp());
    for (Offset first = 0; first < samples; first += kChunk) {
      reader.next(in, corners[lane_of_warp()]);
      __syncwarp();
      const int count = samples_of_chunk(in, first);
      for (int i = 0; i < count; ++i) {
        SEGCORE_UNROLL
        for (int pass = 0; pass < S::kPasses; ++pass) {
          const Corners<A, Offset> sample = corners[i * kQueriesOfWarp + sharing.query(pass)];
          if (sample.offset[0] < 0 || !reads) continue;
          for (int k = 0; k < 4; ++k) {
            add_scaled(sample.weight[k], head + sample.offset[k], sum[pass]);
          }
        }
      }
      __syncwarp();
    }
    SEGCORE_UNROLL
    for (int pass = 0; pass < S::kPasses; ++pass) {
      const Offset query = sharing.query(pass);
      if (query >= queries.count || !reads) continue;
      store(output + ((queries.first + query) * heads + queries.m) * channels + channel, sum[pass]);
    }
  }
}

// What one group of lanes adds to the gradient of value: rows that begin at the offsets; none where
// the offset is negative.
template <typename A, typename Offset, int kVector>
struct CornerGradients {
  Offset offset[4];
  A row[4][kVector];
};

// Adds up rows of one corner that groups of lanes hold for the same cell, those of the pairs of groups at
// `distance`: the upper one keeps the sum.
template <typename A, typename Offset, int kVector>
__device__ inline void merge_same(CornerGradients<A, Offset, kVector>& grad, int k, int distance) {
  const Offset other = __shfl_xor_sync(kWholeWarp, grad.offset[k], distance);
  const bool same = other >= 0 && other == grad.offset[k];
  if (!__any_sync(kWholeWarp, same)) return;
  for (int j = 0; j < kVector; ++j) {
    const A theirs = __shfl_xor_sync(kWholeWarp, grad.row[k][j], distance);
    if (same) grad.row[k][j] += theirs;
  }
  if (same && (lane_of_warp() & distance) == 0) grad.offset[k] = -1;
}

// Adds corner `from` of each group to corner `to` of the next one where they are the same cell.
template <int kLanes, typename A, typename Offset, int kVector>
__device__ inline void merge_into_next(
    CornerGradients<A, Offset, kVector>& grad, int from, int to) {
  const Offset other = __shfl_up_sync(kWholeWarp, grad.offset[from], kLanes);
  const bool takes = lane_of_warp() >= kLanes && other >= 0 && other == grad.offset[to];
  if (!__any_sync(kWholeWarp, takes)) return;
  for (int j = 0; j < kVector; ++j) {
    const A theirs = __shfl_up_sync(kWholeWarp, grad.row[from][j], kLanes);
    if (takes) grad.row[to][j] += theirs;
  }
  const int taken = __shfl_down_sync(kWholeWarp, static_cast<int>(takes), kLanes);
  if (lane_of_warp() < kWarp - kLanes && taken) grad.offset[from] = -1;
}

// Adds the rows of the warp's groups to the gradient of value. Neighboring queries share corners: they
// sample the same cell on coarse levels, the next cell on their own. Their rows are added up before
// memory is, which is slower.
template <int kLanes, typename A, typename Offset, int kVector>
__device__ inline void scatter(CornerGradients<A, Offset, kVector>& grad, bool writes, A* target) {
  const A one = 1;
  SEGCORE_UNROLL
  for (int distance = kLanes; distance < kWarp; distance *= 2) {
    SEGCORE_UNROLL
    for (int k = 0; k < 4; ++k) merge_same(grad, k, distance);
  }
  merge_into_next<kLanes>(grad, 1, 0);
  merge_into_next<kLanes>(grad, 3, 2);
  SEGCORE_UNROLL
  for (int k = 0; k < 4; ++k) {
    if (writes && grad.offset[k] >= 0) atomic_add(target + grad.offset[k], one, grad.row[k]);
  }
}

// grad_value may be null, where value_gradients_kernel computes it.
template <typename T, typename Offset, int kVector, int kLanes>
__global__ void backward_kernel(
    const Inputs<T> in,
    const T* grad_output,
    Accumulator<T>* grad_value,
    Accumulator<T>* grad_locations,
    Accumulator<T>* grad_weights) {
  using A = Accumulator<T>;
  using S = Sharing<kLanes>;
  __shared__ Corners<A, Offset> shared[kWarpsOfBlock][kWarp];
  __shared__ Pack<A, 4> shared_dots[kWarpsOfBlock][kWarp];
  Corners<A, Offset>* const corners = shared[warp_of_block()];
  Pack<A, 4>* const dots = shared_dots[warp_of_block()];
  const WarpQueries<Offset> queries(in);
  if (queries.count == 0) return;
  const S sharing;
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset samples = static_cast<Offset>(in.sizes.samples());
  const Offset heads = static_cast<Offset>(in.sizes.heads);
  const int64_t image = queries.n * in.sizes.tokens * heads * channels;
  const int64_t image_samples = queries.n * in.sizes.queries * heads * samples;
  grad_output += queries.n * in.sizes.queries * heads * channels;
  for (Offset start = 0; start == 0 || start < channels; start += kVector * kLanes) {
    const Offset channel = start + sharing.lane * kVector;
    const int64_t head = image + queries.m * channels + channel;
    const bool reads = channel < channels;
    A grad[S::kPasses][kVector] = {};
    SEGCORE_UNROLL
    for (int pass = 0; pass < S::kPasses; ++pass) {
      const Offset query = queries.first + sharing.query(pass);
      if (!reads || sharing.query(pass) >= queries.count) continue;
      load(grad_output + (query * heads + queries.m) * channels + channel, grad[pass]);
    }
    SampleReader<T, Offset> reader(in, queries, lane_of_warp());
    for (Offset first = 0; first < samples; first += kChunk) {
      const LaneSample<A, Offset> lane_sample = reader.next(in, corners[lane_of_warp()]);
      __syncwarp();
      const int count = samples_of_chunk(in, first);
      for (int i = 0; i < count; ++i) {
        SEGCORE_UNROLL
        for (int pass = 0; pass < S::kPasses; ++pass) {
          const int number = i * kQueriesOfWarp + sharing.query(pass);
          const Corners<A, Offset> sample = corners[number];
          const bool touches = sample.offset[0] >= 0;
          CornerGradients<A, Offset, kVector> to_value;
          A products[4] = {};
          for (int k = 0; k < 4; ++k) {
            to_value.offset[k] = touches && sample.weight[k] != 0 ? sample.offset[k] : -1;
            A corner[kVector] = {};
            if (touches && reads) load(in.value + head + sample.offset[k], corner);
            for (int j = 0; j < kVector; ++j) {
              products[k] += grad[pass][j] * corner[j];
              to_value.row[k][j] = sample.weight[k] * grad[pass][j];
            }
          }
          if (grad_value != nullptr) scatter<kLanes>(to_value, reads, grad_value + head);
          const A product = spread_sums<kLanes>(products, sharing.lane);
          if (sharing.lane < 4) dots[number].values[sharing.lane] = product;
        }
      }
      __syncwarp();
      if (lane_sample.index < 0) continue;
      const SampleGradient<A> gradient =
          sample_gradient(lane_sample.y, lane_sample.x, dots[lane_of_warp()].values);
      A* to_weight = grad_weights + image_samples + lane_sample.index;
      A* to_location = grad_locations + 2 * (image_samples + lane_sample.index);
      const A weight = gradient.weight;
      const A x = lane_sample.attention * lane_sample.width * gradient.x;
      const A y = lane_sample.attention * lane_sample.height * gradient.y;
      *to_weight = start == 0 ? weight : *to_weight + weight;
      to_location[0] = start == 0 ? x : to_location[0] + x;
      to_location[1] = start == 0 ? y : to_location[1] + y;
    }
  }
}

// The gradient of value without atomics, in one order of summation: samples are sorted by the cell of
// their top left corner, and each row of value gathers from the cells around it. A map has one more row
// and column of such cells, at -1.
C10_HOST_DEVICE inline int64_t corner_cells(const Level& level) {
  return (level.height + 1) * (level.width + 1);
}

template <typename T>
C10_HOST_DEVICE inline int64_t corner_cells(const Inputs<T>& in) {
  int64_t count = 0;
  for (int l = 0; l < in.sizes.levels; ++l) count += corner_cells(in.level[l]);
  return count;
}

template <typename A>
struct Position {
  A x, y;  // in cells
};

template <typename T>
__device__ inline Position<Accumulator<T>> position(
    const Inputs<T>& in, int64_t sample, const Level& level) {
  const Accumulator<T>* location = in.locations + 2 * sample;
  return {cell_position(location[0], level.width), cell_position(location[1], level.height)};
}

// keys (samples of the batch): cells of the top left corners, of image after image, head after head;
// one beyond the last for samples that do not touch the map.
template <typename T>
__global__ void corner_keys_kernel(const Inputs<T> in, int64_t cells, int64_t* keys) {
  using A = Accumulator<T>;
  const int64_t i = thread_index(), samples = in.sizes.samples();
  if (i >= in.triples() * samples) return;
  const int64_t l = i % samples / in.sizes.points, triple = i / samples;
  int64_t first = 0;
  for (int other = 0; other < l; ++other) first += corner_cells(in.level[other]);
  const Level& level = in.level[l];
  const Position<A> p = position(in, i, level);
  keys[i] = in.sizes.batch * in.sizes.heads * cells;
  if (!touches_map(p.x, level.width) || !touches_map(p.y, level.height)) return;
  const int64_t n = triple / in.sizes.heads / in.sizes.queries, m = triple % in.sizes.heads;
  const int64_t row = static_cast<int64_t>(std::floor(p.y)) + 1;
  const int64_t column = static_cast<int64_t>(std::floor(p.x)) + 1;
  keys[i] = (n * in.sizes.heads + m) * cells + first + row * (level.width + 1) + column;
}

// kLanes lanes a row of value; `lists` has the samples of each cell of corner_keys_kernel.
template <typename T, int kVector, int kLanes>
__global__ void value_gradients_kernel(
    const Inputs<T> in,
    const T* grad_output,
    const InverseLists lists,
    int64_t cells,
    T* grad_value) {
  using A = Accumulator<T>;
  const MsDeformAttnSizes& s = in.sizes;
  const Group<kLanes> group(s.batch * s.tokens * s.heads);
  if (!group.active) return;
  const int64_t m = group.item % s.heads, n = group.item / s.heads / s.tokens;
  int64_t token = group.item / s.heads % s.tokens, first = (n * s.heads + m) * cells;
  int l = 0;
  for (; token >= in.level[l].height * in.level[l].width; ++l) {
    token -= in.level[l].height * in.level[l].width;
    first += corner_cells(in.level[l]);
  }
  const Level& level = in.level[l];
  const int64_t y = token / level.width, x = token % level.width;
  for (int64_t c = group.lane * kVector; c < s.channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (int k = 0; k < 4; ++k) {  // this row is corner k of the samples
      const int64_t cell = first + (y + 1 - k / 2) * (level.width + 1) + x + 1 - k % 2;
      for (int64_t i = lists.offsets[cell]; i < lists.offsets[cell + 1]; ++i) {
        const int64_t sample = lists.entries[i];
        const Position<A> p = position(in, sample, level);
        const A across = p.x - std::floor(p.x), down = p.y - std::floor(p.y);
        const A weight = (k / 2 ? down : 1 - down) * (k % 2 ? across : 1 - across);
        const T* row = grad_output + sample / s.samples() * s.channels + c;
        add_scaled(in.weights[sample] * weight, row, sum);
      }
    }
    store(grad_value + group.item * s.channels + c, sum);
  }
}

}  // namespace segcore::ms_deform_attn
