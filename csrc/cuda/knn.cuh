// Kernels of the search for nearest neighbors: points are sorted into a grid of buckets, then each
// thread searches for one query. To be included before all else: the distances have to be exact.
#pragma once

#include "../common/bucket_search.h"

#include "inverse_lists.cuh"
#include "warp.cuh"

namespace segcore::knn {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// An axis whose bounds are the borders of its cells. The margins are larger than the rounding of the
// cell, of these bounds, and of the difference of two coordinates.
struct Axis : BucketAxis {
  static constexpr double kMargin = 1.0 / (1 << 20);

  // Lower bound of the distance of a query from the points in cells below `first`, and in those beyond `last`.
  __device__ float distance_below(float query, int64_t first) const {
    return first == 0 ? kInfinity : at_least(query - border(first, 1 + kMargin));
  }
  __device__ float distance_beyond(float query, int64_t last) const {
    return last == cells - 1 ? kInfinity : at_least(border(last + 1, 1 - kMargin) - query);
  }

 private:
  __device__ double border(int64_t cell, double scale) const {
    return origin + static_cast<double>(cell) / cells_per_unit * scale;
  }
  __device__ static float at_least(double distance) {
    return distance > 0 ? static_cast<float>(distance * (1 - kMargin)) : 0.0f;
  }
};

struct Inputs {
  int64_t batch, queries, points, k;
  const float* query;                // (batch, queries, 2)
  const float* point;                // (batch, points, 2)
  const float *smallest, *largest;  // (batch, 2): corners of the rectangle with all points

  C10_HOST_DEVICE int64_t buckets() const {  // of an image, at most
    return static_cast<int64_t>(std::ceil(buckets_wanted(points, k)));
  }
  __device__ BucketGrid grid(int64_t n) const {
    const float low[2] = {smallest[2 * n], smallest[2 * n + 1]};
    const float high[2] = {largest[2 * n], largest[2 * n + 1]};
    return {low, high, buckets_wanted(points, k)};
  }
};

// keys (batch, points): the bucket of each point, those of all images one after the other.
static __global__ void bucket_of_points_kernel(const Inputs in, int64_t* keys) {
  const int64_t i = thread_index();
  if (i >= in.batch * in.points) return;
  const int64_t n = i / in.points;
  const BucketGrid grid = in.grid(n);
  const int64_t row = grid.y.cell(in.point[2 * i + 1]), column = grid.x.cell(in.point[2 * i]);
  keys[i] = n * in.buckets() + row * grid.x.cells + column;
}

// The points of an image by their buckets.
struct Buckets {
  Axis x, y;
  int64_t first_point;  // of the image
  const float* points;
  const int64_t *offsets, *entries;

  template <typename Nearest>
  __device__ void scan(int64_t row, int64_t left, int64_t right, Nearest& nearest) const {
    if (left > right) return;
    const int64_t end = offsets[row * x.cells + right + 1];
    for (int64_t i = offsets[row * x.cells + left]; i < end; ++i) {
      const int64_t point = entries[i];
      nearest.offer(
          points[2 * point], points[2 * point + 1], static_cast<uint32_t>(point - first_point));
    }
  }
};

// The keys of the kCapacity nearest points so far, ascending, in registers. The smallest possible keys
// fill the slots that are not asked for.
template <int kCapacity>
struct NearestInRegisters {
  float x, y;  // the query
  uint64_t keys[kCapacity];

  __device__ NearestInRegisters(float x, float y, int64_t k) : x(x), y(y) {
    for (int i = 0; i < kCapacity; ++i) keys[i] = i < kCapacity - k ? 0 : ~uint64_t(0);
  }

  __device__ void offer(float px, float py, uint32_t index) {
    const uint64_t key = order_key(squared_length(x - px, y - py), index);
    if (key >= keys[kCapacity - 1]) return;
    for (int i = kCapacity - 1; i > 0; --i) {
      keys[i] = key < keys[i - 1] ? keys[i - 1] : key < keys[i] ? key : keys[i];
    }
    if (key < keys[0]) keys[0] = key;
  }

  // A slot that is still free holds NaN.
  __device__ bool are_within(float distance) const {
    return float_of_key(keys[kCapacity - 1]) < distance * distance;
  }

  __device__ void write(int64_t k, int64_t* indices) const {
    for (int i = 0; i < kCapacity; ++i) {
      const int64_t number = i - (kCapacity - k);
      if (number >= 0) indices[number] = index_of_key(keys[i]);
    }
  }
};

// With a capacity of 0, the keys are kept where the indices go.
template <int kCapacity>
__global__ void search_kernel(const Inputs in, const InverseLists bins, int64_t* indices) {
  const int64_t i = thread_index();
  if (i >= in.batch * in.queries) return;
  const int64_t n = i / in.queries;
  const BucketGrid grid = in.grid(n);
  const Buckets buckets = {
      {grid.x}, {grid.y}, n * in.points, in.point, bins.offsets + n * in.buckets(), bins.entries};
  const float x = in.query[2 * i], y = in.query[2 * i + 1];
  indices += i * in.k;
  if constexpr (kCapacity > 0) {
    NearestInRegisters<kCapacity> nearest(x, y, in.k);
    search_buckets(buckets, nearest);
    nearest.write(in.k, indices);
  } else {
    NearestInArray nearest = {x, y, in.k, reinterpret_cast<uint64_t*>(indices)};
    search_buckets(buckets, nearest);
    for (int64_t j = 0; j < in.k; ++j) indices[j] = index_of_key(nearest.keys[j]);
  }
}

}  // namespace segcore::knn
