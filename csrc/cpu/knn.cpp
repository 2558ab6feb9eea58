#include "../common/exact_float.h"

#include <algorithm>
#include <limits>
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

// Points a bucket for each neighbour that is asked for. At 1 / pi, the nearest neighbours of a query
// would just reach the border of the 3 x 3 buckets around it.
constexpr double kPointsPerNeighbour = 0.5;

// Queries below which one more thread costs more than it brings.
constexpr int64_t kQueriesPerThread = 256;

// One axis of the grid of buckets. Cells and bounds follow the order of the coordinates, whatever
// the rounding: all points in cells up to c are at most at highest[c], all from c on at least at
// lowest[c].
struct Axis {
  float origin = 0, cells_per_unit = 0;
  int64_t cells = 1;
  std::vector<float> lowest, highest;

  int64_t cell(float coordinate) const {
    const float position = (coordinate - origin) * cells_per_unit;
    if (!(position > 0)) return 0;  // NaN as well
    return position < static_cast<float>(cells) ? static_cast<int64_t>(position) : cells - 1;
  }
  // How far a query is at least from the points in cells below `first`, and in those beyond `last`.
  float distance_below(float query, int64_t first) const {
    return first == 0 ? kInfinity : query - highest[first - 1];
  }
  float distance_beyond(float query, int64_t last) const {
    return last == cells - 1 ? kInfinity : lowest[last + 1] - query;
  }
};

// The points of an image, sorted by their bucket: row by row, so that neighbouring buckets of a row
// adjoin.
class Buckets {
 public:
  Buckets(const float* points, int64_t count, int64_t k) {
    lay_out(points, count, k);
    const int64_t cells = x_.cells * y_.cells;
    std::vector<int64_t> bucket(count);
    first_.assign(cells + 1, 0);
    for (int64_t i = 0; i < count; ++i) {
      bucket[i] = y_.cell(points[2 * i + 1]) * x_.cells + x_.cell(points[2 * i]);
      ++first_[bucket[i] + 1];
    }
    for (int64_t c = 0; c < cells; ++c) first_[c + 1] += first_[c];
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    px_.resize(count);
    py_.resize(count);
    index_.resize(count);
    for (int64_t i = 0; i < count; ++i) {
      const int64_t place = next[bucket[i]]++;
      px_[place] = points[2 * i];
      py_[place] = points[2 * i + 1];
      index_[place] = static_cast<uint32_t>(i);
    }
  }

  // The keys of the k nearest points of a query, ascending.
  void search(float x, float y, int64_t k, uint64_t* keys) const {
    Nearest nearest{x, y, k, keys};
    int64_t left = x_.cell(x), right = left, top = y_.cell(y), bottom = top;
    grow(left, right, x_.cells);
    grow(top, bottom, y_.cells);
    for (int64_t row = top; row <= bottom; ++row) scan(nearest, row, left, right);
    while (!nearest.surely_within(distance_to_others(x, y, left, right, top, bottom))) {
      const int64_t old_left = left, old_right = right, old_top = top, old_bottom = bottom;
      grow(left, right, x_.cells);
      grow(top, bottom, y_.cells);
      for (int64_t row = top; row <= bottom; ++row) {
        if (row < old_top || row > old_bottom) {
          scan(nearest, row, left, right);
        } else {
          scan(nearest, row, left, old_left - 1);
          scan(nearest, row, old_right + 1, right);
        }
      }
    }
  }

 private:
  struct Nearest {
    float x, y;
    int64_t k;
    uint64_t* keys;
    int64_t count = 0;
    float limit = kInfinity;  // the largest squared distance among k

    SEGCORE_INLINE void offer(float px, float py, uint32_t index) {
      const float squared = squared_length(x - px, y - py);
      if (squared > limit) return;
      const uint64_t key = order_key(squared, index);
      if (count == k && key > keys[k - 1]) return;
      int64_t place = count < k ? count++ : k - 1;
      for (; place > 0 && keys[place - 1] > key; --place) keys[place] = keys[place - 1];
      keys[place] = key;
      if (count == k) limit = float_of_key(keys[k - 1]);
    }

    // Whether all of the nearest are nearer than any point that is at least so far on one axis.
    // Without others at all, `others` is infinite.
    bool surely_within(float others) const {
      return others == kInfinity || (count == k && limit < others * others);
    }
  };

  // Bounding box, number of buckets a side, and bounds.
  void lay_out(const float* points, int64_t count, int64_t k) {
    float low[2] = {kInfinity, kInfinity}, high[2] = {-kInfinity, -kInfinity};
    for (int64_t i = 0; i < 2 * count; ++i) {
      low[i % 2] = points[i] < low[i % 2] ? points[i] : low[i % 2];
      high[i % 2] = points[i] > high[i % 2] ? points[i] : high[i % 2];
    }
    const double width = static_cast<double>(high[0]) - low[0];
    const double height = static_cast<double>(high[1]) - low[1];
    const double cells = std::max(1.0, count / (kPointsPerNeighbour * k));
    const double columns = std::sqrt(cells * (width / height));  // infinite or NaN if flat
    if (columns < cells) x_.cells = std::max<int64_t>(1, std::llround(columns));
    if (!(columns < cells) && width > 0) x_.cells = static_cast<int64_t>(cells);
    y_.cells = height > 0 ? std::max<int64_t>(1, static_cast<int64_t>(cells / x_.cells)) : 1;
    place_cells(x_, points, count, low[0], width);
    place_cells(y_, points + 1, count, low[1], height);
  }

  static void place_cells(
      Axis& axis, const float* coordinates, int64_t count, float low, double extent) {
    axis.origin = low;
    axis.cells_per_unit = extent > 0 ? static_cast<float>(axis.cells / extent) : 0;
    axis.lowest.assign(axis.cells, kInfinity);
    axis.highest.assign(axis.cells, -kInfinity);
    for (int64_t i = 0; i < count; ++i) {
      const float coordinate = coordinates[2 * i];
      const int64_t cell = axis.cell(coordinate);
      axis.lowest[cell] = std::min(axis.lowest[cell], coordinate);
      axis.highest[cell] = std::max(axis.highest[cell], coordinate);
    }
    for (int64_t c = 1; c < axis.cells; ++c) {
      axis.highest[c] = std::max(axis.highest[c], axis.highest[c - 1]);
    }
    for (int64_t c = axis.cells - 1; c > 0; --c) {
      axis.lowest[c - 1] = std::min(axis.lowest[c - 1], axis.lowest[c]);
    }
  }

  static void grow(int64_t& first, int64_t& last, int64_t cells) {
    first = std::max<int64_t>(first - 1, 0);
    last = std::min(last + 1, cells - 1);
  }

  SEGCORE_INLINE void scan(Nearest& nearest, int64_t row, int64_t left, int64_t right) const {
    if (left > right) return;
    const int64_t end = first_[row * x_.cells + right + 1];
    for (int64_t i = first_[row * x_.cells + left]; i < end; ++i) {
      nearest.offer(px_[i], py_[i], index_[i]);
    }
  }

  // How far the points outside the given buckets are at least, on one axis.
  float distance_to_others(
      float x, float y, int64_t left, int64_t right, int64_t top, int64_t bottom) const {
    return std::min(
        std::min(x_.distance_below(x, left), x_.distance_beyond(x, right)),
        std::min(y_.distance_below(y, top), y_.distance_beyond(y, bottom)));
  }

  Axis x_, y_;
  std::vector<int64_t> first_;  // place of the first point of each bucket
  std::vector<float> px_, py_;
  std::vector<uint32_t> index_;
};

Tensor knn(const Tensor& queries, const Tensor& points, int64_t k) {
  const KnnSizes s = check_knn(queries, points, k);
  const Tensor query_positions = torch::stable::contiguous(queries);
  const Tensor point_positions = torch::stable::contiguous(points);
  Tensor output = torch::stable::new_empty(queries, {s.batch, s.queries, k}, ScalarType::Long);
  if (s.batch == 0 || s.queries == 0) return output;

  const float* query = query_positions.const_data_ptr<float>();
  const float* point = point_positions.const_data_ptr<float>();
  int64_t* nearest = output.mutable_data_ptr<int64_t>();
  std::vector<Buckets> buckets;
  buckets.reserve(s.batch);
  for (int64_t n = 0; n < s.batch; ++n) buckets.emplace_back(point + 2 * n * s.points, s.points, k);
  torch::stable::parallel_for(
      0, s.batch * s.queries, kQueriesPerThread, [&](int64_t begin, int64_t end) {
        std::vector<uint64_t> keys(k);
        for (int64_t i = begin; i < end; ++i) {
          buckets[i / s.queries].search(query[2 * i], query[2 * i + 1], k, keys.data());
          std::transform(keys.begin(), keys.end(), nearest + i * k, index_of_key);
        }
      });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("knn", TORCH_BOX(&knn));
}

}  // namespace segcore
