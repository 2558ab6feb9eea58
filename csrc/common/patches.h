// Patches and sort keys of balanced clustering (AutoFocusFormer, section 3.1), for both devices. To be
// included before all else: the keys have to be exact.
#pragma once

#include "exact_float.h"

#include <algorithm>

namespace segcore {

struct ClusteringSizes {
  int64_t batch, tokens, cluster_size;

  C10_HOST_DEVICE int64_t clusters() const { return (tokens + cluster_size - 1) / cluster_size; }
};

// The nearly square patches of a canvas, as many as clusters, about. A serpentine visits them: even
// rows from left to right, odd rows from right to left.
struct Patches {
  int64_t rows, columns;
  float width, height;  // of one patch

  Patches(int64_t clusters, int64_t canvas_height, int64_t canvas_width) {
    const double h = static_cast<double>(canvas_height), w = static_cast<double>(canvas_width);
    const double side = std::sqrt(h * w / static_cast<double>(clusters));
    // Halves go to the even number.
    rows = std::max<int64_t>(1, static_cast<int64_t>(std::nearbyint(h / side)));
    columns = std::max<int64_t>(1, static_cast<int64_t>(std::nearbyint(w / side)));
    width = static_cast<float>(w / static_cast<double>(columns));
    height = static_cast<float>(h / static_cast<double>(rows));
  }

  C10_HOST_DEVICE int64_t count() const { return rows * columns; }

  // Number of the patch of a position on the serpentine; the nearest patch if it is outside.
  C10_HOST_DEVICE int64_t rank(float x, float y) const {
    const int64_t column = cell(x / width, columns), row = cell(y / height, rows);
    return row * columns + (row % 2 == 0 ? column : columns - 1 - column);
  }

  // One coordinate of the center of a patch.
  C10_HOST_DEVICE float center_x(int64_t rank) const {
    const int64_t row = rank / columns, place = rank % columns;
    return center(row % 2 == 0 ? place : columns - 1 - place, width);
  }
  C10_HOST_DEVICE float center_y(int64_t rank) const { return center(rank / columns, height); }

 private:
  C10_HOST_DEVICE static int64_t cell(float position, int64_t cells) {
    if (!(position > 0)) return 0;  // NaN as well
    return position < static_cast<float>(cells) ? static_cast<int64_t>(position) : cells - 1;
  }
  C10_HOST_DEVICE static float center(int64_t cell, float size) {
    return exact_product(static_cast<float>(cell), size) + size / 2 - 0.5f;
  }
};

// A center of one axis as seen from rank `rank` + `step`; beyond the ends of the serpentine, as far
// from the end as its neighbor. There are at least two patches.
template <typename Center>
C10_HOST_DEVICE inline float neighboring_center(
    const Center& center, int64_t rank, int64_t step, int64_t count) {
  const int64_t other = rank + step;
  if (other >= 0 && other < count) return center(other);
  const float here = center(rank), opposite = center(rank - step);
  return step < 0 ? here - (opposite - here) : here + (here - opposite);
}

// Squared distance to the previous patch, as a fraction of that to the next one.
struct PlaceInPatch {
  int64_t rank;
  float ratio;
};

C10_HOST_DEVICE inline PlaceInPatch place_in_patch(const Patches& patches, float x, float y) {
  const int64_t rank = patches.rank(x, y), count = patches.count();
  const auto center_x = [&](int64_t r) { return patches.center_x(r); };
  const auto center_y = [&](int64_t r) { return patches.center_y(r); };
  float squared[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t step = i == 0 ? -1 : 1;
    squared[i] = squared_length(
        x - neighboring_center(center_x, rank, step, count),
        y - neighboring_center(center_y, rank, step, count));
  }
  return {rank, squared[0] / (squared[1] + 1e-5f)};
}

// Key that tokens are sorted by; `largest_ratio` of the image, or of the batch.
C10_HOST_DEVICE inline float sort_key(const PlaceInPatch& place, float largest_ratio) {
  return exact_product(static_cast<float>(place.rank), largest_ratio + 1) + place.ratio;
}

// The bits of any float, in the order of floats; -0 and 0 are the same.
C10_HOST_DEVICE inline uint32_t ordered_bits_of_any(float value) {
  const uint32_t bits = ordered_bits(value + 0.0f);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// A key that orders a single patch: by x, then by y.
C10_HOST_DEVICE inline uint64_t x_then_y_key(float x, float y) {
  return static_cast<uint64_t>(ordered_bits_of_any(x)) << 32 | ordered_bits_of_any(y);
}

// Mean position of cluster `number` of an image, as (x, y). Sums of float32 are exact in float64.
C10_HOST_DEVICE inline void mean_position(
    const ClusteringSizes& s,
    const float* positions,
    const int64_t* order,
    int64_t number,
    float* mean) {
  const int64_t first = number * s.cluster_size, end = first + s.cluster_size;
  const int64_t last = end < s.tokens ? end : s.tokens;
  double x = 0, y = 0;
  for (int64_t i = first; i < last; ++i) {
    x += positions[2 * order[i]];
    y += positions[2 * order[i] + 1];
  }
  mean[0] = static_cast<float>(x / static_cast<double>(last - first));
  mean[1] = static_cast<float>(y / static_cast<double>(last - first));
}

}  // namespace segcore
