#include "../common/group_norm.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "grain.h"
#include "in_precision.h"
#include "rounded.h"
#include "simd.h"

namespace segcore {
namespace {

using torch::stable::Tensor;

// Sums of a row of pixels and of their squares, of each channel.
template <typename V>
SEGCORE_TARGET_CLONES void add_up_row(
    const V* row, int64_t pixels, int64_t channels, double* sums, double* squares) {
  std::fill_n(sums, channels, 0.0);
  std::fill_n(squares, channels, 0.0);
  for (int64_t i = 0; i < pixels; ++i, row += channels) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      const double x = static_cast<double>(row[c]);
      sums[c] += x;
      squares[c] += x * x;
    }
  }
}

// The norm of an image as y = x * scale + shift, of each channel.
template <typename T>
struct Affine {
  std::vector<T> scale, shift;
};

// `sums`: of each row, those of its pixels and of their squares, 2 C numbers.
template <typename T>
Affine<T> make_affine(
    const GroupNormSizes& s, const double* sums, const T* weight, const T* bias, double eps) {
  std::vector<double> total(2 * s.channels);
  for (int64_t row = 0; row < s.height; ++row) {
    for (int64_t i = 0; i < 2 * s.channels; ++i) total[i] += sums[2 * s.channels * row + i];
  }
  Affine<T> affine = {std::vector<T>(s.channels), std::vector<T>(s.channels)};
  const int64_t width = s.channels / s.groups;
  const double count = static_cast<double>(width * s.pixels());
  for (int64_t first = 0; first < s.channels; first += width) {
    double sum = 0, square = 0;
    for (int64_t c = first; c < first + width; ++c) {
      sum += total[c];
      square += total[s.channels + c];
    }
    const double mean = sum / count;
    const double deviation = std::sqrt(std::max(0.0, square / count - mean * mean) + eps);
    for (int64_t c = first; c < first + width; ++c) {
      affine.scale[c] = static_cast<T>(weight[c] / deviation);
      affine.shift[c] = static_cast<T>(bias[c] - mean * weight[c] / deviation);
    }
  }
  return affine;
}

// The two cells between which a pixel of the finer map lies, and the weight of the second: the
// arithmetic of F.interpolate(mode="bilinear", align_corners=False).
template <typename T>
struct Between {
  int64_t first, second;
  T weight;
};

template <typename T>
std::vector<Between<T>> find_between(int64_t coarse, int64_t fine) {
  std::vector<Between<T>> between(coarse == 0 ? 0 : fine);
  const T scale = static_cast<T>(coarse) / static_cast<T>(fine);
  for (int64_t i = 0; i < static_cast<int64_t>(between.size()); ++i) {
    const T place = std::max(scale * (static_cast<T>(i) + T(0.5)) - T(0.5), T(0));
    const int64_t first = std::min(static_cast<int64_t>(place), coarse - 1);
    between[i] = {first, std::min(first + 1, coarse - 1), place - static_cast<T>(first)};
  }
  return between;
}

// A row of the map, in place; `above` and `below`: the rows of the coarse map around it.
template <bool kCoarse, bool kRelu, typename V, typename T>
SEGCORE_TARGET_CLONES void normalize_row(
    const GroupNormSizes& s,
    const Affine<T>& affine,
    const V* above,
    const V* below,
    T weight_below,
    const Between<T>* columns,
    V* row) {
  const T *scale = affine.scale.data(), *shift = affine.shift.data();
  for (int64_t i = 0; i < s.width; ++i, row += s.channels) {
    const V *above_left = nullptr, *above_right = nullptr, *below_left = nullptr,
            *below_right = nullptr;
    T weight[4] = {};
    if constexpr (kCoarse) {
      const int64_t left = columns[i].first * s.channels, right = columns[i].second * s.channels;
      const T x = columns[i].weight, y = weight_below;
      above_left = above + left, above_right = above + right;
      below_left = below + left, below_right = below + right;
      weight[0] = (1 - x) * (1 - y), weight[1] = x * (1 - y);
      weight[2] = (1 - x) * y, weight[3] = x * y;
    }
#pragma omp simd
    for (int64_t c = 0; c < s.channels; ++c) {
      T y = T(row[c]) * scale[c] + shift[c];
      if constexpr (kCoarse) {
        y += weight[0] * T(above_left[c]) + weight[1] * T(above_right[c]) +
            weight[2] * T(below_left[c]) + weight[3] * T(below_right[c]);
      }
      // NaN stays NaN.
      if constexpr (kRelu) y = y < 0 ? T(0) : y;
      row[c] = rounded<V>(y);
    }
  }
}

template <bool kCoarse, bool kRelu, typename V, typename T>
void normalize_rows(
    const GroupNormSizes& s, const std::vector<Affine<T>>& images, const V* coarse, V* x) {
  const auto rows = find_between<T>(s.coarse_height, s.height);
  const auto columns = find_between<T>(s.coarse_width, s.width);
  const int64_t stride = s.width * s.channels, coarse_stride = s.coarse_width * s.channels;
  torch::stable::parallel_for(
      0, s.batch * s.height, grain(4 * stride), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t image = i / s.height;
          const Between<T> row = kCoarse ? rows[i % s.height] : Between<T>();
          const V* map = coarse + image * s.coarse_height * coarse_stride;
          normalize_row<kCoarse, kRelu>(
              s, images[image], map + row.first * coarse_stride, map + row.second * coarse_stride,
              row.weight, columns.data(), x + i * stride);
        }
      });
}

template <typename T, typename V>
void run(const GroupNormArguments& a, const GroupNormSizes& s, const V* coarse, V* x) {
  const int64_t sums_of_row = 2 * s.channels, stride = s.width * s.channels;
  std::vector<double> sums(s.batch * s.height * sums_of_row);
  torch::stable::parallel_for(
      0, s.batch * s.height, grain(2 * stride), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          double* const row = sums.data() + i * sums_of_row;
          add_up_row(x + i * stride, s.width, s.channels, row, row + s.channels);
        }
      });
  const auto precision = accumulation_type(a.x.scalar_type());
  const Tensor weight = in_precision(a.weight, precision), bias = in_precision(a.bias, precision);
  std::vector<Affine<T>> images;
  for (int64_t n = 0; n < s.batch; ++n) {
    images.push_back(make_affine(
        s, sums.data() + n * s.height * sums_of_row, weight.const_data_ptr<T>(),
        bias.const_data_ptr<T>(), a.eps));
  }
  if (coarse != nullptr) {
    a.relu ? normalize_rows<true, true>(s, images, coarse, x)
           : normalize_rows<true, false>(s, images, coarse, x);
  } else {
    a.relu ? normalize_rows<false, true>(s, images, coarse, x)
           : normalize_rows<false, false>(s, images, coarse, x);
  }
}

void run_in_place(const GroupNormArguments& a, const GroupNormSizes& s) {
  if (s.batch * s.pixels() * s.channels == 0) return;
  Tensor x = a.x;
  for_value_type(x.scalar_type(), [&](auto zero) {
    using V = decltype(zero);
    using T = std::conditional_t<std::is_same_v<V, double>, double, float>;
    run<T>(a, s, a.coarse ? a.coarse->const_data_ptr<V>() : nullptr, x.mutable_data_ptr<V>());
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("group_norm_", TORCH_BOX(&GroupNorm::forward<run_in_place>));
}

}  // namespace segcore
