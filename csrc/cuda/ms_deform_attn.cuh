// Kernels of multi-scale deformable attention. Each lane prepares a sample and shares it with its warp in
// shared memory; then kLanes lanes read the corners for one query, kVector neighboring channels each.
// Nothing here knows of PyTorch's tensors, so that tests/csrc can run the kernels without a GPU.
//
// Offset: integer type of offsets within an image, of 32 bits where sizes allow.
//
// Source: what samples are made of, GivenSamples here and LogitSamples in ms_deform_attn_with_logits.cuh. It
// has the members `to_image`, `query`, `location`, `weight` and `finish` of the former.
#pragma once

#include "../common/bilinear.h"
#include "../common/ms_deform_attn_sizes.h"
#include "../common/unroll.h"
#include "inverse_lists.cuh"
#include "warp.cuh"

namespace segcore::ms_deform_attn {

// The levels travel in the kernel's parameters, so that nothing has to be copied to the device.
constexpr int kMaxLevels = 64;

// Forward: neighboring queries of a warp, and samples of each that its lanes prepare at a time.
constexpr int kQueriesOfWarp = 8, kChunk = kWarp / kQueriesOfWarp;

// Queries that are worked on together, so that neighbors find each other's corners: a rectangle of cells if
// the queries are the cells of the map, otherwise its rows one after the other.
struct Tile {
  int height, width;

  template <typename Offset>
  C10_HOST_DEVICE Offset rows(Offset cells) const { return (cells + height - 1) / height; }
  template <typename Offset>
  C10_HOST_DEVICE Offset columns(Offset cells) const { return (cells + width - 1) / width; }
};

constexpr Tile kForwardTile = {kWarpsOfBlock, kQueriesOfWarp};  // of a block

// Backward, of a warp: each group of lanes works on as many neighbors, one after the other, as it has lanes.
template <int kLanes>
constexpr Tile kBackwardTile = {kWarp / kLanes, kLanes};

// Gradients of the samples, which a Source may turn into those of what they are made of.
template <typename A>
struct SampleGradients {
  A* locations;   // (batch, queries, heads, levels, points, 2)
  A* weights;     // (batch, queries, heads, levels, points)
  A* references;  // (batch, queries, heads, levels, coordinates), of LogitSamples

  // Those from a sample, and from a row of coordinates, on.
  __device__ SampleGradients from(int64_t sample, int64_t reference) const {
    return {locations + 2 * sample, weights + sample, references + reference};
  }
};

// Samples whose locations and weights are in memory.
template <typename A>
struct GivenSamples {
  const A* locations;  // (batch, queries, heads, levels, points, 2)
  const A* weights;    // (batch, queries, heads, levels, points)

  // What a lane knows of the samples of one query and head: the index of the first in the image.
  template <typename Offset>
  struct Query {
    Offset first;
  };

  // Leaves the samples of image n, of the gradients too.
  __device__ void to_image(const MsDeformAttnSizes& s, int64_t n) {
    const int64_t first = n * s.queries * s.heads * s.samples();
    locations += 2 * first;
    weights += first;
  }
  __device__ SampleGradients<A> gradients_of_image(
      const MsDeformAttnSizes& s, int64_t n, const SampleGradients<A>& grad) const {
    return grad.from(n * s.queries * s.heads * s.samples(), 0);
  }
  // A query and head of the image. Lanes that are kDistance apart have the same one, if it `exists`.
  template <int kDistance, typename Offset>
  __device__ Query<Offset> query(
      const MsDeformAttnSizes& s, Offset query, Offset head, bool /* exists */) const {
    return {(query * static_cast<Offset>(s.heads) + head) * static_cast<Offset>(s.samples())};
  }
  template <typename Offset>
  __device__ void location(
      const MsDeformAttnSizes&, Query<Offset> query, Offset number, Offset /* level */,
      const A (&/* cells */)[2], A (&location)[2]) const {
    load(locations + 2 * (query.first + number), location);
  }
  template <typename Offset>
  __device__ A weight(Query<Offset> query, Offset number) const {
    return weights[query.first + number];
  }
  // Of a query and head whose gradients are complete.
  template <typename Offset>
  __device__ void finish(
      const MsDeformAttnSizes&, const Level*, Query<Offset>, const SampleGradients<A>&) const {}
};

template <typename T, typename Source = GivenSamples<Accumulator<T>>>
struct Inputs {
  MsDeformAttnSizes sizes;
  Level level[kMaxLevels];
  const T* value;  // (batch, tokens, heads, channels)
  Source source;
  int64_t tiles;   // of an image

  // Self-attention of an encoder, by all appearances: results do not depend on it.
  C10_HOST_DEVICE bool queries_are_cells() const { return sizes.queries == sizes.tokens; }
  C10_HOST_DEVICE int64_t triples() const { return sizes.batch * sizes.queries * sizes.heads; }
};

// Neighboring queries from `first` on.
template <typename Offset>
struct QueryRun {
  Offset first, count;
};

// A row of a tile.
template <typename Offset, typename T, typename Source>
__device__ inline QueryRun<Offset> row_of_tile(
    const Inputs<T, Source>& in, Tile tile, Offset number, int row) {
  Offset first = (number * tile.height + row) * tile.width;
  Offset end = static_cast<Offset>(in.sizes.queries);
  if (in.queries_are_cells()) {
    for (int l = 0;; ++l) {
      const Offset height = static_cast<Offset>(in.level[l].height);
      const Offset width = static_cast<Offset>(in.level[l].width);
      const Offset columns = tile.columns(width), count = tile.rows(height) * columns;
      if (number >= count) {
        number -= count;
        continue;
      }
      const Offset y = number / columns * tile.height + row;
      const Offset cells = static_cast<Offset>(in.level[l].first_token) + y * width;
      first = cells + number % columns * tile.width;
      end = y < height ? cells + width : first;
      break;
    }
  }
  return {first, end < first ? 0 : end - first < tile.width ? end - first : tile.width};
}

// What lanes share of a sample: its corners' weights, and offsets from the first channel of the head in
// the image; the first is negative if the sample does not touch the map.
template <typename A, typename Offset>
struct alignas(16) Corners {
  A weight[4];
  Offset offset[4];
};

// A sample as the lane that prepares it knows it.
template <typename A>
struct LaneSample {
  A width = 0, height = 0, attention = 0;
  AxisSample<A, int> x = {}, y = {};
};

// The samples of one image.
template <typename T, typename Offset, typename Source>
struct Samples {
  using A = Accumulator<T>;
  using Query = typename Source::template Query<Offset>;

  const MsDeformAttnSizes& sizes;
  const Level* const levels;
  Source source;
  const Offset stride;  // of tokens

  __device__ Samples(const Inputs<T, Source>& in, int64_t n)
      : sizes(in.sizes),
        levels(in.level),
        source(in.source),
        stride(static_cast<Offset>(in.sizes.heads * in.sizes.channels)) {
    source.to_image(sizes, n);
  }

  template <int kDistance>
  __device__ Query query(Offset query, Offset head, bool exists) const {
    return source.template query<kDistance>(sizes, query, head, exists);
  }

  // Sample `number` of a query and head, which is of level l.
  __device__ LaneSample<A> prepare(
      Query query, Offset number, Offset l, Corners<A, Offset>& corners) const {
    const Level& level = levels[l];
    LaneSample<A> sample;
    const int width = static_cast<int>(level.width), height = static_cast<int>(level.height);
    sample.width = static_cast<A>(width);
    sample.height = static_cast<A>(height);
    const A cells[2] = {sample.width, sample.height};
    A location[2];
    source.location(sizes, query, number, l, cells, location);
    const A x = cell_position(location[0], width), y = cell_position(location[1], height);
    corners.offset[0] = -1;
    if (!touches_map(x, width) || !touches_map(y, height)) return sample;
    sample.x = sample_axis(x, width);
    sample.y = sample_axis(y, height);
    sample.attention = source.weight(query, number);
    for (int k = 0; k < 4; ++k) {
      const Offset cell_x = static_cast<Offset>(sample.x.cell[k % 2]);
      const Offset cell_y = static_cast<Offset>(sample.y.cell[k / 2]);
      const Offset token = static_cast<Offset>(level.first_token) + cell_y * width + cell_x;
      corners.offset[k] = token * stride;
      corners.weight[k] = sample.attention * sample.y.weight[k / 2] * sample.x.weight[k % 2];
    }
    return sample;
  }
};

// How the lanes of a warp share its queries in the forward: kLanes lanes a query, kPasses queries one
// after the other.
template <int kLanes>
struct Sharing {
  static constexpr int kGroups = kWarp / kLanes;
  static_assert(kQueriesOfWarp % kGroups == 0);
  static constexpr int kPasses = kQueriesOfWarp / kGroups;

  int lane = lane_of_warp() % kLanes, group = lane_of_warp() / kLanes;

  __device__ int query(int pass) const { return pass * kGroups + group; }
};

// A warp works on kQueriesOfWarp queries of one head. Lane l prepares sample l / kQueriesOfWarp of each chunk
// for query l % kQueriesOfWarp.
template <typename T, typename Source, typename Offset, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T, Source> in, T* output) {
  using A = Accumulator<T>;
  using S = Sharing<kLanes>;
  __shared__ Corners<A, Offset> shared[kWarpsOfBlock][kWarp];
  Corners<A, Offset>* const corners = shared[warp_of_block()];
  const unsigned block = blockIdx.x, all_heads = static_cast<unsigned>(in.sizes.heads);
  const unsigned tiles = static_cast<unsigned>(in.tiles);
  const int64_t n = block / all_heads / tiles;
  const Offset m = static_cast<Offset>(block % all_heads);
  const QueryRun<Offset> queries = row_of_tile<Offset>(
      in, kForwardTile, static_cast<Offset>(block / all_heads % tiles), warp_of_block());
  if (queries.count == 0) return;
  const S sharing;
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset count = static_cast<Offset>(in.sizes.samples());
  const Offset points = static_cast<Offset>(in.sizes.points);
  const Offset heads = static_cast<Offset>(in.sizes.heads);
  const Samples<T, Offset, Source> samples(in, n);
  const Offset lane_number = lane_of_warp() % kQueriesOfWarp;
  const Offset lane_count = lane_number < queries.count ? count : 0;
  const auto lane_query = samples.template query<kQueriesOfWarp>(
      queries.first + lane_number, m, lane_number < queries.count);
  const T* value = in.value + n * in.sizes.tokens * heads * channels;
  output += n * in.sizes.queries * heads * channels;
  for (Offset start = 0; start < channels; start += kVector * kLanes) {
    const Offset channel = start + sharing.lane * kVector;
    const T* const head = value + m * channels + channel;
    const bool reads = channel < channels;
    A sum[S::kPasses][kVector] = {};
    Offset number = lane_of_warp() / kQueriesOfWarp, point = number, level = 0;
    for (Offset first = 0; first < count; first += kChunk) {
      if (number < lane_count) {
        for (; point >= points; point -= points) ++level;
        samples.prepare(lane_query, number, level, corners[lane_of_warp()]);
      } else {
        corners[lane_of_warp()].offset[0] = -1;
      }
      number += kChunk;
      point += kChunk;
      __syncwarp();
      const int chunk = chunk_size<kChunk>(count, first);
      for (int i = 0; i < chunk; ++i) {
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
      store(output + ((queries.first + query) * heads + m) * channels + channel, sum[pass]);
    }
  }
}

// Rows of the gradient of value that a group of lanes adds up in registers, as neighboring queries sample
// the same cell of coarse levels and the next cell of their own: additions to memory are slower.
template <typename A, typename Offset, int kVector>
struct CornerGradients {
  A* target;
  Offset offset[4] = {-1, -1, -1, -1};
  bool used[4] = {};
  A row[4][kVector] = {};

  __device__ void add(const Corners<A, Offset>& corners, const A (&grad)[kVector]) {
    bool same = true;
    for (int k = 0; k < 4; ++k) same &= corners.offset[k] == offset[k];
    if (!same) {
      if (corners.offset[0] == offset[1] && corners.offset[2] == offset[3]) {  // the cell to the right
        move(1, 0);
        move(3, 2);
      }
      for (int k = 0; k < 4; ++k) {
        if (corners.offset[k] != offset[k]) flush(k);
        offset[k] = corners.offset[k];
      }
    }
    for (int k = 0; k < 4; ++k) {
      used[k] |= corners.weight[k] != 0;
      for (int j = 0; j < kVector; ++j) row[k][j] += corners.weight[k] * grad[j];
    }
  }
  __device__ void flush() {
    for (int k = 0; k < 4; ++k) flush(k);
  }

 private:
  __device__ void flush(int k) {
    if (used[k]) atomic_add(target + offset[k], A(1), row[k]);
    used[k] = false;
    for (A& number : row[k]) number = 0;
  }
  // Row `to` goes to memory, row `from` takes its place.
  __device__ void move(int from, int to) {
    flush(to);
    offset[to] = offset[from];
    used[to] = used[from];
    used[from] = false;
    for (int j = 0; j < kVector; ++j) {
      row[to][j] = row[from][j];
      row[from][j] = 0;
    }
  }
};

// A group of lanes works on a row of the tile, one head of it, query after query, and each of its lanes
// prepares one sample of every level and point: that of one of the queries.
//
// grad_value may be null, where value_gradients_kernel computes it.
template <typename T, typename Source, typename Offset, int kVector, int kLanes>
__global__ void __launch_bounds__(kThreadsOfBlock, 2) backward_kernel(
    const Inputs<T, Source> in,
    const T* grad_output,
    Accumulator<T>* grad_value,
    const SampleGradients<Accumulator<T>> grad_samples) {
  using A = Accumulator<T>;
  __shared__ Corners<A, Offset> shared[kWarpsOfBlock][kWarp];
  __shared__ Pack<A, 4> shared_dots[kWarpsOfBlock][kWarp];
  const MsDeformAttnSizes& s = in.sizes;
  const Group<kWarp> warp(s.batch * s.heads * in.tiles);
  if (!warp.active) return;
  const int64_t n = warp.item / in.tiles / s.heads;
  const Offset m = static_cast<Offset>(warp.item / in.tiles % s.heads);
  const int lane = warp.lane % kLanes, group = warp.lane / kLanes;
  Corners<A, Offset>* const corners = shared[warp_of_block()] + group * kLanes;
  Pack<A, 4>* const dots = shared_dots[warp_of_block()] + group * kLanes;
  const QueryRun<Offset> queries = row_of_tile<Offset>(
      in, kBackwardTile<kLanes>, static_cast<Offset>(warp.item % in.tiles), group);

  const Offset channels = static_cast<Offset>(s.channels), heads = static_cast<Offset>(s.heads);
  const Offset count = static_cast<Offset>(s.samples());
  const Samples<T, Offset, Source> samples(in, n);
  const SampleGradients<A> gradients = samples.source.gradients_of_image(s, n, grad_samples);
  const bool has_query = lane < queries.count;
  // Each lane's own, out of the registers while it works on the queries of others.
  __shared__ typename Samples<T, Offset, Source>::Query shared_queries[kWarpsOfBlock][kWarp];
  auto& query = shared_queries[warp_of_block()][warp.lane];
  query = samples.template query<kWarp>(queries.first + lane, m, has_query);
  grad_output += ((n * s.queries + queries.first) * heads + m) * channels;
  for (Offset start = 0; start == 0 || start < channels; start += kVector * kLanes) {
    const Offset channel = start + lane * kVector;
    const int64_t head = n * s.tokens * heads * channels + m * channels + channel;
    const bool reads = channel < channels;
    for (Offset number = 0; number < count; ++number) {
      const Offset l = number / static_cast<Offset>(s.points);
      corners[lane].offset[0] = -1;
      if (has_query) samples.prepare(query, number, l, corners[lane]);
      __syncwarp();
      CornerGradients<A, Offset, kVector> to_value = {grad_value + head};
      for (int i = 0; i < kLanes; ++i) {
        const Corners<A, Offset> sample = corners[i];
        A products[4] = {};
        if (sample.offset[0] >= 0 && reads) {
          A grad[kVector];
          load(grad_output + i * heads * channels + channel, grad);
          for (int k = 0; k < 4; ++k) {
            A corner[kVector];
            load(in.value + head + sample.offset[k], corner);
            for (int j = 0; j < kVector; ++j) products[k] += grad[j] * corner[j];
          }
          if (grad_value != nullptr) to_value.add(sample, grad);
        }
        const A product = spread_sums<kLanes>(products, lane);
        if (lane < 4) dots[i].values[lane] = product;
      }
      to_value.flush();
      __syncwarp();
      if (!has_query) continue;
      // Prepared again: kept over the loop, it would take up registers.
      const LaneSample<A> sample = samples.prepare(query, number, l, corners[lane]);
      const SampleGradient<A> gradient = sample_gradient(sample.y, sample.x, dots[lane].values);
      A* const to_location = gradients.locations + 2 * (query.first + number);
      A* const to_weight = gradients.weights + query.first + number;
      const A x = sample.attention * sample.width * gradient.x;
      const A y = sample.attention * sample.height * gradient.y;
      *to_weight = start == 0 ? gradient.weight : *to_weight + gradient.weight;
      to_location[0] = start == 0 ? x : to_location[0] + x;
      to_location[1] = start == 0 ? y : to_location[1] + y;
    }
  }
  if (has_query) samples.source.finish(s, in.level, query, gradients);
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
  const Accumulator<T>* location = in.source.locations + 2 * sample;
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
        add_scaled(in.source.weights[sample] * weight, row, sum);
      }
    }
    store(grad_value + group.item * s.channels + c, sum);
  }
}

}  // namespace segcore::ms_deform_attn
