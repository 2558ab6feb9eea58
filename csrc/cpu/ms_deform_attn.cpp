#include "ms_deform_attn.h"

#include <algorithm>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/bilinear.h"
#include "../common/dispatch.h"
#include "../common/ms_deform_attn.h"
#include "grain.h"
#include "simd.h"

namespace segcore::ms_deform_attn {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Channels that are summed in registers at once: blocks, then half a block, then what is left.
constexpr int64_t kBlock = 32;

// Queries of one head that the backward fetches ahead: they lie `heads` rows apart, which the
// hardware does not foresee. Anything from 2 to 8 halves its time.
constexpr int64_t kQueriesAhead = 4;

// The four corners of a sample: top left, top right, bottom left, bottom right.
template <typename T>
struct Corners {
  int64_t offset[4];
  T weight[4];
};

template <typename T>
SEGCORE_INLINE Corners<T> make_corners(
    const AxisSample<T, int64_t>& y,
    const AxisSample<T, int64_t>& x,
    const Level& level,
    int64_t stride,
    T scale) {
  const int64_t top = (level.first_token + y.cell[0] * level.width) * stride;
  const int64_t bottom = (level.first_token + y.cell[1] * level.width) * stride;
  const int64_t left = x.cell[0] * stride, right = x.cell[1] * stride;
  const T upper = scale * y.weight[0], lower = scale * y.weight[1];
  return {
      {top + left, top + right, bottom + left, bottom + right},
      {upper * x.weight[0], upper * x.weight[1], lower * x.weight[0], lower * x.weight[1]}};
}

// The samples of one query and head that touch their map; returns how many there are.
template <typename T>
SEGCORE_INLINE int64_t collect_samples(
    const Inputs<T>& in, const T* location, const T* weight, Corners<T>* samples) {
  int64_t count = 0;
  for (int64_t l = 0; l < in.sizes.levels; ++l) {
    const Level level = in.levels[l];
    for (int64_t p = 0; p < in.sizes.points; ++p, location += 2, ++weight) {
      const T x = cell_position(location[0], level.width);
      const T y = cell_position(location[1], level.height);
      if (!touches_map(x, level.width) || !touches_map(y, level.height)) continue;
      const AxisSample<T, int64_t> rows = sample_axis(y, level.height);
      const AxisSample<T, int64_t> columns = sample_axis(x, level.width);
      samples[count++] = make_corners(rows, columns, level, in.sizes.channels, *weight);
    }
  }
  return count;
}

// output[c] = sum over the samples of the weighted corners, for `channels` <= kBlock channels.
template <typename T>
SEGCORE_INLINE void gather(
    const T* value, const Corners<T>* samples, int64_t count, int64_t channels, T* output) {
  T sum[kBlock] = {};
  for (int64_t i = 0; i < count; ++i) {
    const Corners<T>& s = samples[i];
    const T* corner[4];
    for (int k = 0; k < 4; ++k) corner[k] = value + s.offset[k];
#pragma omp simd
    for (int64_t c = 0; c < channels; ++c) {
      sum[c] += s.weight[0] * corner[0][c] + s.weight[1] * corner[1][c] +
          s.weight[2] * corner[2][c] + s.weight[3] * corner[3][c];
    }
  }
  std::copy(sum, sum + channels, output);
}

// See sum_samples; `samples` has room for those of one query and head.
template <typename T>
SEGCORE_TARGET_CLONES void sum_samples_of_queries(
    const Inputs<T>& in,
    Corners<T>* samples,
    int64_t begin,
    int64_t end,
    const T* locations,
    const T* weights,
    T* output) {
  const MsDeformAttnSizes& s = in.sizes;
  for (int64_t m = 0; m < s.heads; ++m) {
    for (int64_t query = begin; query < end; ++query) {
      const T* value = in.value + in.head_offset(query / s.queries, m);
      const int64_t first = ((query - begin) * s.heads + m) * s.samples();
      const int64_t count = collect_samples(in, locations + 2 * first, weights + first, samples);
      T* out = output + (query * s.heads + m) * s.channels;
      int64_t c = 0;
      for (; c + kBlock <= s.channels; c += kBlock) {
        gather(value + c, samples, count, kBlock, out + c);
      }
      if (c + kBlock / 2 <= s.channels) {
        gather(value + c, samples, count, kBlock / 2, out + c);
        c += kBlock / 2;
      }
      if (c < s.channels) gather(value + c, samples, count, s.channels - c, out + c);
    }
  }
}

// One cache line of memory that is read, or written, soon.
constexpr int64_t kLine = 64;
enum Access { kRead = 0, kWrite = 1 };

template <Access access, typename T>
SEGCORE_INLINE void prefetch(const T* data, int64_t count) {
  for (int64_t i = 0; i < count; i += kLine / sizeof(T)) __builtin_prefetch(data + i, access);
}

// grad_value += weight * grad_output in one corner; returns <grad_output, value>.
template <typename T>
SEGCORE_INLINE T scatter(
    const T* grad_output, const T* value, T weight, int64_t channels, T* grad_value) {
  T dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t c = 0; c < channels; ++c) {
    dot += grad_output[c] * value[c];
    grad_value[c] += weight * grad_output[c];
  }
  return dot;
}

// One corner after the other: where a corner was clamped, two of them are the same cell.
template <typename T>
SEGCORE_INLINE void scatter_corners(
    const T* grad_output,
    const T* value,
    const Corners<T>& corners,
    int64_t channels,
    T* grad_value,
    T* dots) {
  for (int k = 0; k < 4; ++k) {
    const int64_t cell = corners.offset[k];
    dots[k] += scatter(grad_output, value + cell, corners.weight[k], channels, grad_value + cell);
  }
}

// Gradients of one level of one head, from all queries. Nothing else writes to these cells: no
// atomics are needed, and the order of the sums does not depend on the number of threads.
template <typename T>
SEGCORE_TARGET_CLONES void backward_level(
    const Inputs<T>& in, const T* grad_output, int64_t n, int64_t m, int64_t l, Gradients<T> grad) {
  const MsDeformAttnSizes& s = in.sizes;
  const Level level = in.levels[l];
  const T* value = in.value + in.head_offset(n, m);
  T* grad_value = grad.value + in.head_offset(n, m);
  for (int64_t q = 0; q < s.queries; ++q) {
    const int64_t triple = in.triple(n, q, m), first = in.first_sample(triple, l);
    const int64_t next_triple = in.triple(n, std::min(q + kQueriesAhead, s.queries - 1), m);
    const int64_t next_first = in.first_sample(next_triple, l);
    prefetch<kRead>(grad_output + next_triple * s.channels, s.channels);
    prefetch<kRead>(in.locations + 2 * next_first, 2 * s.points);
    prefetch<kRead>(in.weights + next_first, s.points);
    prefetch<kWrite>(grad.locations + 2 * next_first, 2 * s.points);
    prefetch<kWrite>(grad.weights + next_first, s.points);

    const T* go = grad_output + triple * s.channels;
    for (int64_t sample = first; sample < first + s.points; ++sample) {
      const T x_position = cell_position(in.locations[2 * sample], level.width);
      const T y_position = cell_position(in.locations[2 * sample + 1], level.height);
      if (!touches_map(x_position, level.width) || !touches_map(y_position, level.height)) {
        continue;  // its gradients are zero already
      }
      const AxisSample<T, int64_t> x = sample_axis(x_position, level.width);
      const AxisSample<T, int64_t> y = sample_axis(y_position, level.height);
      const T weight = in.weights[sample];
      const Corners<T> corners = make_corners(y, x, level, s.channels, weight);
      T dots[4] = {};
      int64_t c = 0;
      for (; c + kBlock <= s.channels; c += kBlock) {
        scatter_corners(go + c, value + c, corners, kBlock, grad_value + c, dots);
      }
      if (c + kBlock / 2 <= s.channels) {
        scatter_corners(go + c, value + c, corners, kBlock / 2, grad_value + c, dots);
        c += kBlock / 2;
      }
      if (c < s.channels) {
        scatter_corners(go + c, value + c, corners, s.channels - c, grad_value + c, dots);
      }
      const SampleGradient<T> gradient = sample_gradient(y, x, dots);
      grad.weights[sample] = gradient.weight;
      grad.locations[2 * sample] = weight * static_cast<T>(level.width) * gradient.x;
      grad.locations[2 * sample + 1] = weight * static_cast<T>(level.height) * gradient.y;
    }
  }
}

// The arguments as the kernels read them.
struct Prepared {
  const MsDeformAttnLevels& sizes;
  const Tensor value, locations, weights;

  Prepared(const MsDeformAttnArguments& a, const MsDeformAttnLevels& s)
      : sizes(s),
        value(head_major(a.value, a.attention_weights.scalar_type())),
        locations(torch::stable::contiguous(a.sampling_locations)),
        weights(torch::stable::contiguous(a.attention_weights)) {}

  template <typename T>
  Inputs<T> inputs() const {
    return {
        sizes,
        sizes.level.data(),
        value.const_data_ptr<T>(),
        locations.const_data_ptr<T>(),
        weights.const_data_ptr<T>()};
  }
};

Tensor run_forward(const MsDeformAttnArguments& a, const MsDeformAttnLevels& s) {
  const Prepared prepared(a, s);
  const ScalarType precision = a.attention_weights.scalar_type();
  Tensor output = torch::stable::new_empty(a.value, s.output(), precision);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = prepared.inputs<T>();
    const int64_t row = s.heads * s.samples();
    torch::stable::parallel_for(
        0, s.batch * s.queries, grain(row * s.channels * 4), [&](int64_t begin, int64_t end) {
          for (int64_t first = begin; first < end; first += kQueriesOfBlock) {
            sum_samples(
                in, first, std::min(first + kQueriesOfBlock, end), in.locations + 2 * first * row,
                in.weights + first * row, output.mutable_data_ptr<T>());
          }
        });
  });
  return torch::stable::to(output, a.value.scalar_type());
}

MsDeformAttnGradients run_backward(
    const Tensor& grad_output, const MsDeformAttnArguments& a, const MsDeformAttnLevels& s) {
  const Prepared prepared(a, s);
  const ScalarType precision = a.attention_weights.scalar_type();
  const Tensor grad = in_precision(grad_output, precision);
  Tensor grad_value = torch::stable::new_zeros(a.value, prepared.value.sizes(), precision);
  Tensor grad_locations =
      torch::stable::new_zeros(a.value, a.sampling_locations.sizes(), precision);
  Tensor grad_weights = torch::stable::new_zeros(a.value, a.attention_weights.sizes(), precision);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    compute_gradients<T>(
        prepared.inputs<T>(), grad.const_data_ptr<T>(),
        {grad_value.mutable_data_ptr<T>(), grad_locations.mutable_data_ptr<T>(),
         grad_weights.mutable_data_ptr<T>()});
  });
  return {
      in_precision(torch::stable::transpose(grad_value, 1, 2), a.value.scalar_type()),
      grad_locations, grad_weights};
}

}  // namespace

template <typename T>
void sum_samples(
    const Inputs<T>& in,
    int64_t begin,
    int64_t end,
    const T* locations,
    const T* weights,
    T* output) {
  std::vector<Corners<T>> samples(in.sizes.samples());
  sum_samples_of_queries(in, samples.data(), begin, end, locations, weights, output);
}

template <typename T>
void compute_gradients(const Inputs<T>& in, const T* grad_output, const Gradients<T>& grad) {
  const MsDeformAttnSizes& s = in.sizes;
  torch::stable::parallel_for(
      0, s.batch * s.heads * s.levels, grain(s.queries * s.points * s.channels * 8),
      [&](int64_t begin, int64_t end) {
        for (int64_t item = begin; item < end; ++item) {
          const int64_t l = item % s.levels, m = item / s.levels % s.heads;
          backward_level(in, grad_output, item / s.levels / s.heads, m, l, grad);
        }
      });
}

#define SEGCORE_INSTANTIATE(T)                                                          \
  template void sum_samples(const Inputs<T>&, int64_t, int64_t, const T*, const T*, T*); \
  template void compute_gradients(const Inputs<T>&, const T*, const Gradients<T>&);
SEGCORE_INSTANTIATE(float)
SEGCORE_INSTANTIATE(double)
#undef SEGCORE_INSTANTIATE

}  // namespace segcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  using namespace segcore;
  library.impl("ms_deform_attn", TORCH_BOX(&MsDeformAttn::forward<ms_deform_attn::run_forward>));
  library.impl(
      "ms_deform_attn_backward",
      TORCH_BOX(&MsDeformAttn::backward_in_mode<ms_deform_attn::run_backward>));
}
