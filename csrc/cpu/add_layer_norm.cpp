#include "../common/add_layer_norm.h"

#include <cmath>
#include <type_traits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "grain.h"
#include "in_precision.h"
#include "lanes.h"
#include "rounded.h"

namespace segcore {
namespace {

using torch::stable::Tensor;

template <typename T>
struct Norm {
  const T *weight, *bias;
  T eps;
};

// Adds a row in place, if there is one, and writes the sum to `sum`, which may be x.
template <typename V, typename T>
SEGCORE_INLINE void add_row(int64_t channels, V* x, const V* added, T* sum) {
  if (added != nullptr) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) x[c] = rounded<V>(T(x[c]) + T(added[c]));
  }
  if constexpr (!std::is_same_v<V, T>) {
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) sum[c] = T(x[c]);
  }
}

// Sum of the distances of a row's numbers from `origin`, or of their squares.
template <bool kSquares, typename T>
SEGCORE_INLINE T sum_of_distances(const T* row, T origin, int64_t channels) {
  Narrow<T> sums = {};
  T sum = 0;
  int64_t c = 0;
  for (; c + kNarrow<T> <= channels; c += kNarrow<T>) {
    const Narrow<T> distance = vector_at<Narrow<T>>(row + c) - origin;
    sums += kSquares ? distance * distance : distance;
  }
  for (; c < channels; ++c) sum += kSquares ? (row[c] - origin) * (row[c] - origin) : row[c] - origin;
  for (int i = 0; i < kNarrow<T>; ++i) sum += sums[i];
  return sum;
}

template <typename V, typename T>
SEGCORE_TARGET_CLONES void normalize_rows(
    const Norm<T>& norm, int64_t rows, int64_t channels, V* x, const V* added, T* scratch, V* out) {
  for (int64_t i = 0; i < rows; ++i, x += channels, out += channels) {
    T* row = scratch;
    if constexpr (std::is_same_v<V, T>) row = x;
    add_row(channels, x, added, row);
    const T mean = sum_of_distances<false>(row, T(0), channels) / T(channels);
    const T variance = sum_of_distances<true>(row, mean, channels) / T(channels);
    const T scale = 1 / std::sqrt(variance + norm.eps);
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      out[c] = rounded<V>((row[c] - mean) * scale * norm.weight[c] + norm.bias[c]);
    }
    if (added != nullptr) added += channels;
  }
}

void run_in_place(const AddLayerNormArguments& a, const AddLayerNormSizes& s) {
  if (s.rows == 0) return;
  Tensor x = a.x, out = a.out;
  const auto precision = accumulation_type(x.scalar_type());
  const Tensor weight = in_precision(a.weight, precision), bias = in_precision(a.bias, precision);
  for_value_type(x.scalar_type(), [&](auto zero) {
    using V = decltype(zero);
    using T = std::conditional_t<std::is_same_v<V, double>, double, float>;
    const Norm<T> norm = {weight.const_data_ptr<T>(), bias.const_data_ptr<T>(), T(a.eps)};
    V* const values = x.mutable_data_ptr<V>();
    V* const normalized = out.mutable_data_ptr<V>();
    const V* const added = a.added ? a.added->const_data_ptr<V>() : nullptr;
    torch::stable::parallel_for(
        0, s.rows, grain(4 * s.channels), [&](int64_t begin, int64_t end) {
          const int64_t first = begin * s.channels;
          std::vector<T> scratch(std::is_same_v<V, T> ? 0 : s.channels);
          normalize_rows(
              norm, end - begin, s.channels, values + first,
              added == nullptr ? nullptr : added + first, scratch.data(), normalized + first);
        });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("add_layer_norm_", TORCH_BOX(&AddLayerNorm::forward<run_in_place>));
}

}  // namespace segcore
