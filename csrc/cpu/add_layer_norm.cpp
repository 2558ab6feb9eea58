#include "../common/add_layer_norm.h"

#include <cmath>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "grain.h"
#include "product.h"

namespace segcore {
namespace {

using torch::stable::Tensor;

template <typename T>
struct Norm {
  const T *weight, *bias;
  T eps;
};

// Sum of a row plus another, which is written to the first.
template <bool kAdded, typename T>
SEGCORE_INLINE T add_row(T* __restrict x, const T* __restrict added, int64_t channels) {
  Wide<T> sums = {};
  T sum = 0;
  int64_t c = 0;
  for (; c + kWide<T> <= channels; c += kWide<T>) {
    Wide<T> v = vector_at<Wide<T>>(x + c);
    if constexpr (kAdded) vector_at<Wide<T>>(x + c) = v += vector_at<Wide<T>>(added + c);
    sums += v;
  }
  for (; c < channels; ++c) {
    if constexpr (kAdded) x[c] += added[c];
    sum += x[c];
  }
  for (int i = 0; i < kWide<T>; ++i) sum += sums[i];
  return sum;
}

// Sum of the squares of a row's distances from its mean.
template <typename T>
SEGCORE_INLINE T squared_distances(const T* x, T mean, int64_t channels) {
  Wide<T> sums = {};
  T sum = 0;
  int64_t c = 0;
  for (; c + kWide<T> <= channels; c += kWide<T>) {
    const Wide<T> distance = vector_at<Wide<T>>(x + c) - mean;
    sums += distance * distance;
  }
  for (; c < channels; ++c) sum += (x[c] - mean) * (x[c] - mean);
  for (int i = 0; i < kWide<T>; ++i) sum += sums[i];
  return sum;
}

template <typename V, typename T>
SEGCORE_INLINE void normalize(const Norm<T>& norm, const T* x, T mean, T scale, int64_t c, T* out) {
  vector_at<V>(out + c) = (vector_at<V>(x + c) - mean) * scale * vector_at<V>(norm.weight + c) +
      vector_at<V>(norm.bias + c);
}

template <bool kAdded, typename T>
SEGCORE_TARGET_CLONES void normalize_rows(
    const Norm<T>& norm, int64_t rows, int64_t channels, T* x, const T* added, T* out) {
  for (int64_t i = 0; i < rows; ++i, x += channels, out += channels) {
    const T mean = add_row<kAdded>(x, added, channels) / T(channels);
    const T variance = squared_distances(x, mean, channels) / T(channels);
    const T scale = 1 / std::sqrt(variance + norm.eps);
    int64_t c = 0;
    for (; c + kWide<T> <= channels; c += kWide<T>) {
      normalize<Wide<T>>(norm, x, mean, scale, c, out);
    }
    for (; c < channels; ++c) normalize<T>(norm, x, mean, scale, c, out);
    if constexpr (kAdded) added += channels;
  }
}

void run_in_place(const AddLayerNormArguments& a, const AddLayerNormSizes& s) {
  if (s.rows == 0) return;
  const Tensor weight = torch::stable::contiguous(a.weight);
  const Tensor bias = torch::stable::contiguous(a.bias);
  Tensor x = a.x, out = a.out;
  for_precision(x.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Norm<T> norm = {weight.const_data_ptr<T>(), bias.const_data_ptr<T>(), T(a.eps)};
    T* const values = x.mutable_data_ptr<T>();
    T* const normalized = out.mutable_data_ptr<T>();
    const T* const added = a.added ? a.added->const_data_ptr<T>() : nullptr;
    torch::stable::parallel_for(
        0, s.rows, grain(4 * s.channels), [&](int64_t begin, int64_t end) {
          const int64_t first = begin * s.channels;
          if (added == nullptr) {
            normalize_rows<false, T>(
                norm, end - begin, s.channels, values + first, nullptr, normalized + first);
          } else {
            normalize_rows<true, T>(
                norm, end - begin, s.channels, values + first, added + first, normalized + first);
          }
        });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("add_layer_norm_", TORCH_BOX(&AddLayerNorm::forward<run_in_place>));
}

}  // namespace segcore
