#include "../common/bucket_search.h"

#include <algorithm>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/knn.h"
#include "simd.h"

namespace segcore {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Queries below which one more thread costs more than it brings.
constexpr int64_t kQueriesPerThread = 256;

// An axis with bounds: all points in cells up to c are at most at highest[c], all from c on at least
// at lowest[c].
struct Axis : BucketAxis {
  std::vector<float> lowest, highest;

  Axis(const BucketAxis& axis, const float* coordinates, int64_t count)
      : BucketAxis(axis), lowest(cells, kInfinity), highest(cells, -kInfinity) {
    for (int64_t i = 0; i < count; ++i) {
      const float coordinate = coordinates[2 * i];
      const int64_t c = cell(coordinate);
      lowest[c] = std::min(lowest[c], coordinate);
      highest[c] = std::max(highest[c], coordinate);
    }
    for (int64_t c = 1; c < cells; ++c) highest[c] = std::max(highest[c], highest[c - 1]);
    for (int64_t c = cells - 1; c > 0; --c) lowest[c - 1] = std::min(lowest[c - 1], lowest[c]);
  }

  // Lower bound of the distance of a query from the points in cells below `first`, and in those beyond `last`.
  float distance_below(float query, int64_t first) const {
    return first == 0 ? kInfinity : query - highest[first - 1];
  }
  float distance_beyond(float query, int64_t last) const {
    return last == cells - 1 ? kInfinity : lowest[last + 1] - query;
  }
};

BucketGrid lay_out(const float* points, int64_t count, int64_t k) {
  float low[2] = {kInfinity, kInfinity}, high[2] = {-kInfinity, -kInfinity};
  for (int64_t i = 0; i < 2 * count; ++i) {
    low[i % 2] = points[i] < low[i % 2] ? points[i] : low[i % 2];
    high[i % 2] = points[i] > high[i % 2] ? points[i] : high[i % 2];
  }
  return {low, high, buckets_wanted(count, k)};
}

// The points of an image, sorted by their bucket: row by row, so that neighboring buckets of a row
// adjoin.
struct Buckets {
  Axis x, y;
  std::vector<int64_t> first;  // index of the first point of each bucket
  std::vector<float> px, py;
  std::vector<uint32_t> index;

  Buckets(const float* points, int64_t count, const BucketGrid& grid)
      : x(grid.x, points, count), y(grid.y, points + 1, count), first(x.cells * y.cells + 1),
        px(count), py(count), index(count) {
    std::vector<int64_t> bucket(count);
    for (int64_t i = 0; i < count; ++i) {
      bucket[i] = y.cell(points[2 * i + 1]) * x.cells + x.cell(points[2 * i]);
      ++first[bucket[i] + 1];
    }
    for (int64_t c = 0; c < x.cells * y.cells; ++c) first[c + 1] += first[c];
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t slot = next[bucket[i]]++;
      px[slot] = points[2 * i];
      py[slot] = points[2 * i + 1];
      index[slot] = static_cast<uint32_t>(i);
    }
  }

  SEGCORE_INLINE void scan(
      int64_t row, int64_t left, int64_t right, NearestInArray& nearest) const {
    if (left > right) return;
    const int64_t end = first[row * x.cells + right + 1];
    for (int64_t i = first[row * x.cells + left]; i < end; ++i) {
      nearest.offer(px[i], py[i], index[i]);
    }
  }
};

Tensor run(const Tensor& queries, const Tensor& points, const KnnSizes& s) {
  const int64_t k = s.k;
  const Tensor query_positions = torch::stable::contiguous(queries);
  const Tensor point_positions = torch::stable::contiguous(points);
  Tensor output = torch::stable::new_empty(queries, {s.batch, s.queries, k}, ScalarType::Long);
  if (s.batch == 0 || s.queries == 0) return output;

  const float* query = query_positions.const_data_ptr<float>();
  const float* point = point_positions.const_data_ptr<float>();
  int64_t* nearest = output.mutable_data_ptr<int64_t>();
  std::vector<Buckets> buckets;
  buckets.reserve(s.batch);
  for (int64_t n = 0; n < s.batch; ++n) {
    const float* image_points = point + 2 * n * s.points;
    buckets.emplace_back(image_points, s.points, lay_out(image_points, s.points, k));
  }
  torch::stable::parallel_for(
      0, s.batch * s.queries, kQueriesPerThread, [&](int64_t begin, int64_t end) {
        std::vector<uint64_t> keys(k);
        for (int64_t i = begin; i < end; ++i) {
          NearestInArray neighbors = {query[2 * i], query[2 * i + 1], k, keys.data()};
          search_buckets(buckets[i / s.queries], neighbors);
          std::transform(keys.begin(), keys.end(), nearest + i * k, index_of_key);
        }
      });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("knn", TORCH_BOX(&knn_operator<run>));
}

}  // namespace segcore
