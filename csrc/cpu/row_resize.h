// Bilinear interpolation of maps row by row, in registers and two rows of memory a step.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../common/mask_inference.h"
#include "simd.h"

namespace segcore {

// Source positions and weights along one axis, as PyTorch's kernel computes them (align_corners
// False).
template <typename T>
struct ResizeAxis {
  bool identity;
  std::vector<int32_t> lower, upper;
  std::vector<T> lower_weight, upper_weight;

  ResizeAxis(int64_t size, int64_t output_size) : identity(size == output_size) {
    const T scale = static_cast<T>(size) / static_cast<T>(output_size);
    for (int64_t i = 0; i < output_size; ++i) {
      const T center = static_cast<T>(i) + T(0.5);
      const T source = std::max(std::fma(center, scale, T(-0.5)), T(0));
      // The floor is taken in float32 for double, too.
      const int64_t floor = static_cast<int64_t>(std::floor(static_cast<float>(source)));
      const int64_t first = std::min(floor, size - 1);
      const T weight = std::min(std::max(source - static_cast<T>(first), T(0)), T(1));
      lower.push_back(static_cast<int32_t>(first));
      upper.push_back(static_cast<int32_t>(std::min(first + 1, size - 1)));
      lower_weight.push_back(1 - weight);
      upper_weight.push_back(weight);
    }
  }

  int64_t first_source(int64_t i) const { return identity ? i : lower[i]; }
  int64_t last_source(int64_t i) const { return identity ? i : upper[i]; }
};

// The compiler fuses the sum with the first product, as PyTorch's kernel does.
template <typename T>
SEGCORE_TARGET_CLONES void interpolate_columns(
    const T* source,
    const int32_t* lower,
    const int32_t* upper,
    const T* lower_weight,
    const T* upper_weight,
    int64_t count,
    T* output) {
  for (int64_t i = 0; i < count; ++i) {
    output[i] = source[lower[i]] * lower_weight[i] + source[upper[i]] * upper_weight[i];
  }
}

template <typename T>
SEGCORE_TARGET_CLONES void interpolate_rows(
    const T* lower, const T* upper, T lower_weight, T upper_weight, int64_t count, T* output) {
  for (int64_t i = 0; i < count; ++i) {
    output[i] = lower[i] * lower_weight + upper[i] * upper_weight;
  }
}

template <typename T>
struct ResizeAxes {
  ResizeAxis<T> rows, columns;
};

// The axes of all steps that change a size; a step that only cuts needs nothing.
template <typename T>
std::vector<ResizeAxes<T>> resize_axes(const std::vector<ResizeStep>& steps) {
  std::vector<ResizeAxes<T>> axes;
  for (const ResizeStep& step : steps) {
    ResizeAxes<T> next = {
        {step.height, step.output_height}, {step.width, step.output_width}};
    if (!next.rows.identity || !next.columns.identity) axes.push_back(std::move(next));
  }
  return axes;
}

// Some columns of resized maps, one map after the other. Rows in rising order are computed from rows
// that are kept: each is interpolated along its columns once.
template <typename T>
class ResizedRows {
 public:
  ResizedRows(const std::vector<ResizeAxes<T>>& axes, int64_t left, int64_t right) {
    for (size_t i = axes.size(); i-- > 0;) {
      const ResizeAxis<T>& columns = axes[i].columns;
      const int64_t source_left = columns.first_source(left);
      steps_.insert(steps_.begin(), Step(axes[i], left, right, source_left));
      right = columns.last_source(right - 1) + 1;
      left = source_left;
    }
    left_ = left;
  }

  void start(const T* map, int64_t stride) {
    map_ = map + left_;
    stride_ = stride;
    for (Step& step : steps_) step.kept_row[0] = step.kept_row[1] = -1;
  }

  // Valid until the next call.
  const T* row(int64_t y) { return row_after(steps_.size(), y); }

 private:
  struct Step {
    const ResizeAxes<T>* axes;
    int64_t left, count;
    std::vector<int32_t> lower, upper;  // from the first column of the source
    std::vector<T> kept[2], output;
    int64_t kept_row[2];

    Step(const ResizeAxes<T>& step_axes, int64_t begin, int64_t end, int64_t source_left)
        : axes(&step_axes), left(begin), count(end - begin), kept_row{-1, -1} {
      for (int64_t i = begin; i < end; ++i) {
        lower.push_back(static_cast<int32_t>(axes->columns.lower[i] - source_left));
        upper.push_back(static_cast<int32_t>(axes->columns.upper[i] - source_left));
      }
      for (std::vector<T>* row : {&kept[0], &kept[1], &output}) row->resize(count);
    }
  };

  // A row of the map after so many steps.
  const T* row_after(size_t steps, int64_t y) {
    if (steps == 0) return map_ + y * stride_;
    Step& step = steps_[steps - 1];
    const ResizeAxis<T>& rows = step.axes->rows;
    if (rows.identity) return widened(steps - 1, y);
    const T* lower = widened(steps - 1, rows.lower[y]);
    const T* upper = widened(steps - 1, rows.upper[y]);
    interpolate_rows(
        lower, upper, rows.lower_weight[y], rows.upper_weight[y], step.count, step.output.data());
    return step.output.data();
  }

  // A row of the input of a step, interpolated along the columns.
  const T* widened(size_t index, int64_t y) {
    Step& step = steps_[index];
    const int64_t slot = y % 2;
    T* kept = step.kept[slot].data();
    if (step.kept_row[slot] == y) return kept;
    step.kept_row[slot] = y;
    const T* source = row_after(index, y);
    const ResizeAxis<T>& columns = step.axes->columns;
    if (columns.identity) {
      std::copy_n(source, step.count, kept);
    } else {
      interpolate_columns(
          source, step.lower.data(), step.upper.data(), columns.lower_weight.data() + step.left,
          columns.upper_weight.data() + step.left, step.count, kept);
    }
    return kept;
  }

  std::vector<Step> steps_;
  int64_t left_;
  const T* map_ = nullptr;
  int64_t stride_ = 0;
};

}  // namespace segcore
