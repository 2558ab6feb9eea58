// The search for nearest neighbors in a grid of buckets, for both devices. To be included before all
// else: the distances have to be exact.
#pragma once

#include "exact_float.h"

#include <cmath>
#include <limits>

namespace segcore {

// Points a bucket for each neighbor that is asked for. At 1 / pi, the nearest neighbors of a query
// would just reach the border of the 3 x 3 buckets around it.
constexpr double kPointsPerNeighbor = 0.5;

C10_HOST_DEVICE inline double buckets_wanted(int64_t points, int64_t k) {
  const double buckets = points / (kPointsPerNeighbor * k);
  return buckets > 1 ? buckets : 1;
}

// One axis of the grid. Cells follow the order of the coordinates, whatever the rounding.
struct BucketAxis {
  float origin = 0, cells_per_unit = 0;
  int64_t cells = 1;

  C10_HOST_DEVICE int64_t cell(float coordinate) const {
    const float position = (coordinate - origin) * cells_per_unit;
    if (!(position > 0)) return 0;  // NaN as well
    return position < static_cast<float>(cells) ? static_cast<int64_t>(position) : cells - 1;
  }
};

// Row by row; at most buckets_wanted(), rounded up.
struct BucketGrid {
  BucketAxis x, y;

  // For points between two corners of a rectangle.
  C10_HOST_DEVICE BucketGrid(const float (&low)[2], const float (&high)[2], double buckets) {
    const double width = static_cast<double>(high[0]) - low[0];
    const double height = static_cast<double>(high[1]) - low[1];
    const double columns = std::sqrt(buckets * (width / height));  // infinite or NaN if flat
    if (columns < buckets) x.cells = static_cast<int64_t>(columns + 0.5);
    if (!(columns < buckets) && width > 0) x.cells = static_cast<int64_t>(buckets);
    if (x.cells < 1) x.cells = 1;
    if (height > 0) y.cells = static_cast<int64_t>(buckets / x.cells);
    if (y.cells < 1) y.cells = 1;
    x.origin = low[0];
    y.origin = low[1];
    x.cells_per_unit = width > 0 ? static_cast<float>(x.cells / width) : 0;
    y.cells_per_unit = height > 0 ? static_cast<float>(y.cells / height) : 0;
  }
};

// The keys of the k nearest points so far, ascending, in an array.
struct NearestInArray {
  float x, y;  // the query
  int64_t k;
  uint64_t* keys;
  int64_t count = 0;
  float limit = std::numeric_limits<float>::infinity();  // the largest squared distance among k

  C10_HOST_DEVICE C10_ALWAYS_INLINE void offer(float px, float py, uint32_t index) {
    const float squared = squared_length(x - px, y - py);
    if (squared > limit) return;
    const uint64_t key = order_key(squared, index);
    if (count == k && key > keys[k - 1]) return;
    int64_t i = count < k ? count++ : k - 1;
    for (; i > 0 && keys[i - 1] > key; --i) keys[i] = keys[i - 1];
    keys[i] = key;
    if (count == k) limit = float_of_key(keys[k - 1]);
  }

  // True if there are k, all nearer than this distance.
  C10_HOST_DEVICE bool are_within(float distance) const {
    return count == k && limit < distance * distance;
  }
};

C10_HOST_DEVICE inline float smaller(float a, float b) { return b < a ? b : a; }

// Offers the points of the buckets around nearest.x, nearest.y, ring by ring, until no other can be as
// near. Buckets: axes x and y, which say how far a coordinate is at least from the points in cells
// below or beyond some cells, and scan(row, left, right, nearest), which offers the points of buckets.
template <typename Buckets, typename Nearest>
C10_HOST_DEVICE inline void search_buckets(const Buckets& buckets, Nearest& nearest) {
  const auto &x = buckets.x, &y = buckets.y;
  const auto grow = [](int64_t& first, int64_t& last, int64_t cells) {
    if (first > 0) --first;
    if (last < cells - 1) ++last;
  };
  int64_t left = x.cell(nearest.x), right = left, top = y.cell(nearest.y), bottom = top;
  grow(left, right, x.cells);
  grow(top, bottom, y.cells);
  for (int64_t row = top; row <= bottom; ++row) buckets.scan(row, left, right, nearest);
  while (left > 0 || right < x.cells - 1 || top > 0 || bottom < y.cells - 1) {
    const float others = smaller(
        smaller(x.distance_below(nearest.x, left), x.distance_beyond(nearest.x, right)),
        smaller(y.distance_below(nearest.y, top), y.distance_beyond(nearest.y, bottom)));
    if (nearest.are_within(others)) return;
    const int64_t old_left = left, old_right = right, old_top = top, old_bottom = bottom;
    grow(left, right, x.cells);
    grow(top, bottom, y.cells);
    for (int64_t row = top; row <= bottom; ++row) {
      if (row < old_top || row > old_bottom) {
        buckets.scan(row, left, right, nearest);
      } else {
        buckets.scan(row, left, old_left - 1, nearest);
        buckets.scan(row, old_right + 1, right, nearest);
      }
    }
  }
}

}  // namespace segcore
