#include "../common/point_deform_attn.h"

#include <algorithm>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "grain.h"
#include "in_precision.h"
#include "index_range.h"
#include "power_lanes.h"
#include "weighted_sum.h"

namespace segcore {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The number of neighbors that loops are unrolled for.
constexpr int64_t kUsualNeighbors = 4;

template <typename T>
struct Inputs {
  PointDeformAttnSizes sizes;
  const T* values;            // (batch, heads, tokens, channels): tokens of a head adjoin
  const T* positions;         // (batch, tokens, 2)
  const int64_t* neighbors;  // (batch, levels, cells, neighbors)
  const T* locations;         // (batch, queries, heads, levels, points, 2)
  const T* attention;         // (batch, queries, heads, levels, points)
  T power;

  // First element of a head in values and their gradient.
  int64_t head_offset(int64_t n, int64_t m) const {
    return (n * sizes.heads + m) * sizes.tokens * sizes.channels;
  }
};

// The neighbors of all samples of some queries and heads, sample by sample: (samples, neighbors).
template <typename T>
struct Samples {
  std::vector<int64_t> first_cell;  // of the level of each sample
  std::vector<int64_t> cell;        // nearest to each sample, among those of all levels
  std::vector<int64_t> token;       // 0 where there is none
  std::vector<T> x, y;         // from the token to the location
  std::vector<T> distance;     // squared; negative where there is no token
  std::vector<T> weight;       // of the interpolation, and its gradient
  std::vector<T> grad;
  std::vector<T> attention;    // of the sample
  std::vector<T> coefficient;  // weight times attention

  Samples(const PointDeformAttnSizes& s, int64_t triples)
      : cell(triples * s.samples()), token(triples * s.samples() * s.neighbors),
        x(token.size()), y(token.size()), distance(token.size()), weight(token.size()),
        grad(token.size()), attention(token.size()), coefficient(token.size()) {
    for (int64_t i = 0; i < triples * s.samples(); ++i) {
      first_cell.push_back(i / s.points % s.levels * s.cells());
    }
  }

  int64_t count() const { return static_cast<int64_t>(cell.size()); }
  int64_t entries() const { return static_cast<int64_t>(token.size()); }
};

// Looks up the neighbors of the cells of all samples, kNeighbors of them or, if it is 0, `neighbors`.
template <int64_t kNeighbors, typename T>
SEGCORE_INLINE void look_up(
    const int64_t* table,
    int64_t neighbors,
    const T* positions,
    const T* location,
    const T* attention,
    Samples<T>& samples) {
  const int64_t k_end = kNeighbors > 0 ? kNeighbors : neighbors;
  for (int64_t i = 0; i < samples.count(); ++i) {
    const int64_t* entry = table + samples.cell[i] * k_end;
    const T x = location[2 * i], y = location[2 * i + 1], factor = attention[i];
    for (int64_t k = 0; k < k_end; ++k) {
      const int64_t e = i * k_end + k;
      const int64_t token = std::max<int64_t>(entry[k], 0);
      samples.token[e] = token;
      samples.x[e] = x - positions[2 * token];
      samples.y[e] = y - positions[2 * token + 1];
      samples.distance[e] = entry[k] < 0 ? T(-1) : T(0);
      samples.attention[e] = factor;
    }
  }
}

// The neighbors of the samples of `triple` and those behind it, of image n.
template <typename T>
SEGCORE_INLINE void collect(const Inputs<T>& in, int64_t n, int64_t triple, Samples<T>& samples) {
  const PointDeformAttnSizes& s = in.sizes;
  const T* location = in.locations + 2 * triple * s.samples();
  const T* attention = in.attention + triple * s.samples();
  const int64_t count = samples.count(), entries = samples.entries();
  const int64_t* first_cell = samples.first_cell.data();
  int64_t* cell = samples.cell.data();
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    cell[i] = first_cell[i] + nearest_cell(location[2 * i + 1], s.height) * s.width +
        nearest_cell(location[2 * i], s.width);
  }
  const int64_t* table = in.neighbors + n * s.levels * s.cells() * s.neighbors;
  const T* positions = in.positions + 2 * n * s.tokens;
  if (s.neighbors == kUsualNeighbors) {
    look_up<kUsualNeighbors>(table, s.neighbors, positions, location, attention, samples);
  } else {
    look_up<0>(table, s.neighbors, positions, location, attention, samples);
  }
  const T *x = samples.x.data(), *y = samples.y.data();
  T* distance = samples.distance.data();
#pragma omp simd
  for (int64_t e = 0; e < entries; ++e) {
    const T squared = x[e] * x[e] + y[e] * y[e];
    distance[e] = distance[e] < 0 ? distance[e] : squared;
  }
}

// Weights of the interpolation, and those with the attention.
template <typename T>
SEGCORE_INLINE void weigh(
    const Exponent<T>& exponent, int64_t neighbors, Samples<T>& samples) {
  const T *distance = samples.distance.data(), *attention = samples.attention.data();
  T *weight = samples.weight.data(), *coefficient = samples.coefficient.data();
  const int64_t entries = samples.entries();
#pragma omp simd
  for (int64_t e = 0; e < entries; ++e) weight[e] = inverse_distance(exponent, distance[e]);
  int64_t e = 0;
  if (neighbors == kUsualNeighbors) {
    static_assert(kLanes == 2 * kUsualNeighbors);
    for (; e + kLanes <= entries; e += kLanes) {
      // The sum of each half in all of its places.
      Lanes<T> sum = lanes(weight + e);
      sum += shuffled<1, 0, 3, 2, 5, 4, 7, 6>(sum, sum);
      sum += shuffled<2, 3, 0, 1, 6, 7, 4, 5>(sum, sum);
      lanes(weight + e) /= sum;
      lanes(coefficient + e) = lanes(weight + e) * lanes(attention + e);
    }
  }
  for (; e < entries; e += neighbors) {
    T sum = 0;
    for (int64_t k = e; k < e + neighbors; ++k) sum += weight[k];
    for (int64_t k = e; k < e + neighbors; ++k) {
      weight[k] /= sum;
      coefficient[k] = weight[k] * attention[k];
    }
  }
}

// Output of the queries [begin, end) of the batch.
template <typename T>
SEGCORE_TARGET_CLONES void sample_queries(
    const Inputs<T>& in, Samples<T>& samples, int64_t begin, int64_t end, T* output) {
  const PointDeformAttnSizes& s = in.sizes;
  const Exponent<T> exponent(in.power);
  const int64_t entries = s.samples() * s.neighbors;
  for (int64_t query = begin; query < end; ++query) {
    const int64_t n = query / s.queries;
    collect(in, n, query * s.heads, samples);
    weigh(exponent, s.neighbors, samples);
    for (int64_t m = 0; m < s.heads; ++m) {
      weighted_sum(
          in.values + in.head_offset(n, m), s.channels, samples.token.data() + m * entries,
          samples.coefficient.data() + m * entries, entries,
          output + (query * s.heads + m) * s.channels);
    }
  }
}

template <typename T>
struct Gradients {
  T* values;
  T* locations;
  T* attention;
};

// Gradients of the values of the neighbors; leaves those of the interpolated rows in samples.grad.
template <typename T>
SEGCORE_INLINE void scatter(
    const T* grad_output, const T* values, int64_t channels, Samples<T>& samples, T* grad_values) {
  for (size_t e = 0; e < samples.token.size(); ++e) {
    const int64_t offset = samples.token[e] * channels;
    const T coefficient = samples.coefficient[e];
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t c = 0; c < channels; ++c) {
      dot += grad_output[c] * values[offset + c];
      grad_values[offset + c] += coefficient * grad_output[c];
    }
    samples.grad[e] = dot;
  }
}

// Turns the gradients of the interpolated rows into those of the attention; leaves in samples.grad
// how much a row differs from the interpolation.
template <typename T>
SEGCORE_INLINE void attention_gradients(
    const PointDeformAttnSizes& s, Samples<T>& samples, T* grad_attention) {
  for (int64_t i = 0; i < s.samples(); ++i) {
    const T* weight = &samples.weight[i * s.neighbors];
    T* grad = &samples.grad[i * s.neighbors];
    T mean = 0;
    for (int64_t k = 0; k < s.neighbors; ++k) mean += weight[k] * grad[k];
    for (int64_t k = 0; k < s.neighbors; ++k) grad[k] -= mean;
    grad_attention[i] = mean;
  }
}

// The gradient of the power, and parts of those of the locations in samples.x and samples.y.
template <typename T>
SEGCORE_INLINE T power_gradient(const Exponent<T>& exponent, T power, Samples<T>& samples) {
  const T *distance = samples.distance.data(), *grad = samples.grad.data();
  const T* coefficient = samples.coefficient.data();
  T *x = samples.x.data(), *y = samples.y.data();
  const int64_t count = static_cast<int64_t>(samples.distance.size());
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t e = 0; e < count; ++e) {
    const auto slopes = inverse_distance_slopes(exponent, power, coefficient[e], distance[e]);
    sum += slopes.power * grad[e];
    const T scale = slopes.offset * grad[e];
    x[e] *= scale;
    y[e] *= scale;
  }
  return sum;
}

// Gradients of the locations of one triple.
template <typename T>
SEGCORE_INLINE void location_gradients(
    const PointDeformAttnSizes& s, const Samples<T>& samples, T* grad_locations) {
  for (int64_t i = 0; i < s.samples(); ++i) {
    T x = 0, y = 0;
    for (int64_t e = i * s.neighbors; e < (i + 1) * s.neighbors; ++e) {
      x += samples.x[e];
      y += samples.y[e];
    }
    grad_locations[2 * i] = x;
    grad_locations[2 * i + 1] = y;
  }
}

// Gradients of one head, from all queries: nothing else writes to its values, so that no atomics are
// needed and the order of the sums does not depend on the number of threads. Returns the gradient
// of the power.
template <typename T>
SEGCORE_TARGET_CLONES double backward_head(
    const Inputs<T>& in,
    const T* grad_output,
    int64_t n,
    int64_t m,
    Samples<T>& samples,
    Gradients<T> grad) {
  const PointDeformAttnSizes& s = in.sizes;
  const Exponent<T> exponent(in.power);
  const int64_t offset = in.head_offset(n, m);
  double grad_power = 0;
  for (int64_t q = 0; q < s.queries; ++q) {
    const int64_t triple = (n * s.queries + q) * s.heads + m;
    collect(in, n, triple, samples);
    weigh(exponent, s.neighbors, samples);
    scatter(
        grad_output + triple * s.channels, in.values + offset, s.channels, samples,
        grad.values + offset);
    attention_gradients(s, samples, grad.attention + triple * s.samples());
    grad_power += power_gradient(exponent, in.power, samples);
    location_gradients(s, samples, grad.locations + 2 * triple * s.samples());
  }
  return grad_power;
}

Tensor head_major(const Tensor& values, ScalarType type) {
  return in_precision(torch::stable::transpose(values, 1, 2), type);
}

// The arguments as the kernels read them.
struct Prepared {
  PointDeformAttnSizes sizes;
  Tensor values, positions, neighbors, locations, attention, power;

  Prepared(const PointDeformAttnArguments& a, const PointDeformAttnSizes& s)
      : sizes(s),
        values(head_major(a.values, a.power.scalar_type())),
        positions(torch::stable::contiguous(a.positions)),
        neighbors(torch::stable::contiguous(a.neighbors)),
        locations(torch::stable::contiguous(a.locations)),
        attention(torch::stable::contiguous(a.attention)),
        power(a.power) {
    const int64_t count = s.batch * s.levels * s.cells() * s.neighbors;
    check_index_range("neighbors", neighbors.const_data_ptr<int64_t>(), count, -1, s.tokens);
    STD_TORCH_CHECK(
        s.tokens > 0 || s.batch * s.queries * s.heads * s.samples() == 0,
        "values: expected at least one token");
  }

  template <typename T>
  Inputs<T> inputs() const {
    return {
        sizes,
        values.const_data_ptr<T>(),
        positions.const_data_ptr<T>(),
        neighbors.const_data_ptr<int64_t>(),
        locations.const_data_ptr<T>(),
        attention.const_data_ptr<T>(),
        *power.const_data_ptr<T>()};
  }
};

template <typename T>
void forward(const Inputs<T>& in, T* output) {
  const PointDeformAttnSizes& s = in.sizes;
  const int64_t work = s.heads * s.samples() * s.neighbors * (s.channels + 32);
  torch::stable::parallel_for(
      0, s.batch * s.queries, grain(work), [&](int64_t begin, int64_t end) {
        Samples<T> samples(s, s.heads);
        sample_queries(in, samples, begin, end, output);
      });
}

// Returns the gradient of the power.
template <typename T>
double backward(const Inputs<T>& in, const T* grad_output, Gradients<T> grad) {
  const PointDeformAttnSizes& s = in.sizes;
  std::vector<double> head_grads(s.batch * s.heads);
  torch::stable::parallel_for(0, s.batch * s.heads, 1, [&](int64_t begin, int64_t end) {
    Samples<T> samples(s, 1);
    for (int64_t i = begin; i < end; ++i) {
      head_grads[i] = backward_head(in, grad_output, i / s.heads, i % s.heads, samples, grad);
    }
  });
  double grad_power = 0;
  for (const double head_grad : head_grads) grad_power += head_grad;
  return grad_power;
}

Tensor run_forward(const PointDeformAttnArguments& a, const PointDeformAttnSizes& s) {
  const Prepared prepared(a, s);
  const ScalarType precision = a.power.scalar_type();
  Tensor output =
      torch::stable::new_empty(a.values, s.output(), precision);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    forward(prepared.inputs<T>(), output.mutable_data_ptr<T>());
  });
  return torch::stable::to(output, a.values.scalar_type());
}

PointDeformAttnGradients run_backward(
    const Tensor& grad_output, const PointDeformAttnArguments& a, const PointDeformAttnSizes& s) {
  const Prepared prepared(a, s);
  const ScalarType precision = a.power.scalar_type();
  const Tensor grad = in_precision(grad_output, precision);
  Tensor grad_values = torch::stable::new_zeros(a.values, prepared.values.sizes(), precision);
  Tensor grad_locations = torch::stable::new_empty(a.locations, a.locations.sizes());
  Tensor grad_attention = torch::stable::new_empty(a.attention, a.attention.sizes());
  Tensor grad_power = torch::stable::new_empty(a.power, {1});
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    *grad_power.mutable_data_ptr<T>() = static_cast<T>(backward<T>(
        prepared.inputs<T>(), grad.const_data_ptr<T>(),
        {grad_values.mutable_data_ptr<T>(), grad_locations.mutable_data_ptr<T>(),
         grad_attention.mutable_data_ptr<T>()}));
  });
  return {
      in_precision(torch::stable::transpose(grad_values, 1, 2), a.values.scalar_type()),
      grad_locations, grad_attention, grad_power};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("point_deform_attn", TORCH_BOX(&PointDeformAttn::forward<run_forward>));
  library.impl(
      "point_deform_attn_backward", TORCH_BOX(&PointDeformAttn::backward_in_mode<run_backward>));
}

}  // namespace segcore
