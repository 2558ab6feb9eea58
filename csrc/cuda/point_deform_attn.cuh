// Kernels of deformable attention over tokens. kLanes lanes work on one (batch, query, head) triple:
// each prepares one of its samples, and one neighbor of it after the other is shared with the others,
// each of which reads kVector neighboring channels.
#pragma once

#include <cmath>

#include "../common/inverse_distance.h"
#include "../common/point_deform_attn_sizes.h"
#include "inverse_lists.cuh"
#include "warp.cuh"

namespace segcore::point_deform_attn {

template <typename T>
struct Inputs {
  using A = Accumulator<T>;

  PointDeformAttnSizes sizes;
  const T* values;            // (batch, tokens, heads, channels)
  const A* positions;         // (batch, tokens, 2)
  const int64_t* neighbors;  // (batch, levels, cells, neighbors)
  const A* locations;         // (batch, queries, heads, levels, points, 2)
  const A* attention;         // (batch, queries, heads, levels, points)
  const A* power;             // (1)

  C10_HOST_DEVICE int64_t triples() const { return sizes.batch * sizes.queries * sizes.heads; }
  __device__ int64_t image(int64_t triple) const { return triple / sizes.heads / sizes.queries; }
  // First channel, in values and their gradient, of the head of a triple.
  __device__ int64_t head_offset(int64_t triple) const {
    return (image(triple) * sizes.tokens * sizes.heads + triple % sizes.heads) * sizes.channels;
  }
  __device__ int64_t token_stride() const { return sizes.heads * sizes.channels; }
};

template <typename A>
struct Exponent {
  A exponent;

  __device__ Power<A> operator()(A x) const { return {std::pow(x, exponent), std::log2(x)}; }
};

// A neighbor of a sample: no token (-1), and a negative distance, where there is none.
template <typename A>
struct Neighbor {
  int64_t token;
  A x, y, squared_distance;  // from the token to the location
};

// A sample as the lane that prepares it knows it.
template <typename A>
struct Sample {
  int64_t index;              // among all samples of the batch
  A x, y, attention;
  A total;                    // inverse distance of all neighbors
  const A* positions;         // of its image
  const int64_t* neighbors;  // null if there is no such sample
};

template <typename T, typename A>
__device__ inline Neighbor<A> neighbor(
    const Inputs<T>& in, const Sample<A>& sample, int64_t number) {
  const int64_t token = sample.neighbors == nullptr ? -1 : sample.neighbors[number];
  if (token < 0 || token >= in.sizes.tokens) return {-1, 0, 0, -1};
  const A x = sample.x - sample.positions[2 * token];
  const A y = sample.y - sample.positions[2 * token + 1];
  return {token, x, y, x * x + y * y};
}

template <typename T>
__device__ inline Sample<Accumulator<T>> prepare_sample(
    const Inputs<T>& in, int64_t triple, int64_t number) {
  using A = Accumulator<T>;
  const PointDeformAttnSizes& s = in.sizes;
  Sample<A> sample = {};
  if (number >= s.samples()) return sample;
  const int64_t n = in.image(triple), level = number / s.points;
  sample.index = triple * s.samples() + number;
  sample.x = in.locations[2 * sample.index];
  sample.y = in.locations[2 * sample.index + 1];
  sample.attention = in.attention[sample.index];
  sample.positions = in.positions + 2 * n * s.tokens;
  const int64_t cell = nearest_cell(sample.y, s.height) * s.width + nearest_cell(sample.x, s.width);
  sample.neighbors = in.neighbors + ((n * s.levels + level) * s.cells() + cell) * s.neighbors;
  for (int64_t k = 0; k < s.neighbors; ++k) {
    const A squared_distance = neighbor(in, sample, k).squared_distance;
    sample.total += inverse_distance(Exponent<A>{*in.power}, squared_distance);
  }
  return sample;
}

// The weight of a neighbor in the interpolation.
template <typename T, typename A>
__device__ inline A weight_of(
    const Inputs<T>& in, const Sample<A>& sample, const Neighbor<A>& neighbor) {
  if (neighbor.token < 0) return 0;
  return inverse_distance(Exponent<A>{*in.power}, neighbor.squared_distance) / sample.total;
}

template <typename T, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.triples());
  const T* values = in.values + in.head_offset(group.item);
  const int64_t channels = in.sizes.channels, samples = in.sizes.samples();
  for (int64_t start = 0; start < channels; start += kVector * kLanes) {
    const int64_t channel = start + group.lane * kVector;
    const bool reads = channel < channels;
    A sum[kVector] = {};
    for (int64_t first = 0; first < samples; first += kLanes) {
      const Sample<A> sample = prepare_sample(in, group.item, first + group.lane);
      for (int64_t k = 0; k < in.sizes.neighbors; ++k) {
        const Neighbor<A> nearest = neighbor(in, sample, k);
        const A coefficient = weight_of(in, sample, nearest) * sample.attention;
        for (int i = 0; i < chunk_size<kLanes>(samples, first); ++i) {
          const int64_t token = from_lane<kLanes>(nearest.token, i);
          const A scale = from_lane<kLanes>(coefficient, i);
          if (token < 0 || !reads) continue;
          add_scaled(scale, values + token * in.token_stride() + channel, sum);
        }
      }
    }
    if (group.active && reads) store(output + group.item * channels + channel, sum);
  }
}

// The sum over neighbors of slope * (dot - mean), whose mean is known only after the last of them.
template <typename A>
struct SlopeSum {
  A product = 0, slope = 0;

  __device__ void add(A neighbor_slope, A dot) {
    product += neighbor_slope * dot;
    slope += neighbor_slope;
  }
  __device__ A around(A mean) const { return product - slope * mean; }
};

// The terms of the gradient of values, one a neighbor of every sample, for value_gradients_kernel.
template <typename A>
struct ValueTerms {
  int64_t* keys;    // (batch, head) pair times tokens plus token; one beyond the last for no token
  A* coefficients;  // factor of the row of grad_output
};

// grad_power (triples): what each adds to the gradient of the power. Either grad_values or the
// pointers of `terms` are null.
template <typename T, int kVector, int kLanes>
__global__ void backward_kernel(
    const Inputs<T> in,
    const T* grad_output,
    Accumulator<T>* grad_values,
    ValueTerms<Accumulator<T>> terms,
    Accumulator<T>* grad_locations,
    Accumulator<T>* grad_attention,
    double* grad_power) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.triples());
  const T* values = in.values + in.head_offset(group.item);
  if (grad_values != nullptr) grad_values += in.head_offset(group.item);
  const int64_t map = in.image(group.item) * in.sizes.heads + group.item % in.sizes.heads;
  const int64_t no_token = in.sizes.batch * in.sizes.heads * in.sizes.tokens;
  grad_output += group.item * in.sizes.channels;
  const int64_t channels = in.sizes.channels, samples = in.sizes.samples();
  A power = 0;
  for (int64_t first = 0; first < samples; first += kLanes) {
    const Sample<A> sample = prepare_sample(in, group.item, first + group.lane);
    const int count = chunk_size<kLanes>(samples, first);
    SlopeSum<A> x, y, exponent;
    A mean = 0;
    for (int64_t k = 0; k < in.sizes.neighbors; ++k) {
      const Neighbor<A> nearest = neighbor(in, sample, k);
      const A weight = weight_of(in, sample, nearest), coefficient = weight * sample.attention;
      A sample_dot = 0;
      for (int i = 0; i < count; ++i) {
        const int64_t token = from_lane<kLanes>(nearest.token, i);
        const A scale = from_lane<kLanes>(coefficient, i);
        A dot = 0;
        if (group.active && token >= 0) {
          const int64_t row = token * in.token_stride();
          dot = dot_of_lane<kVector, kLanes>(grad_output, values + row, channels, group.lane);
          for (int64_t c = group.lane * kVector; c < channels; c += kVector * kLanes) {
            A grad[kVector];
            load(grad_output + c, grad);
            if (grad_values != nullptr && scale != 0) {
              atomic_add(grad_values + row + c, scale, grad);
            }
          }
        }
        dot = sum_of_lanes<kLanes>(dot);
        if (group.lane == i) sample_dot = dot;
      }
      if (terms.keys != nullptr && group.active && group.lane < count) {
        const int64_t term = sample.index * in.sizes.neighbors + k;
        terms.keys[term] =
            nearest.token < 0 ? no_token : map * in.sizes.tokens + nearest.token;
        terms.coefficients[term] = coefficient;
      }
      const InverseDistanceSlopes<A> slopes = inverse_distance_slopes(
          Exponent<A>{*in.power}, *in.power, coefficient, nearest.squared_distance);
      mean += weight * sample_dot;
      x.add(slopes.offset * nearest.x, sample_dot);
      y.add(slopes.offset * nearest.y, sample_dot);
      exponent.add(slopes.power, sample_dot);
    }
    power += exponent.around(mean);
    if (group.active && group.lane < count) {
      grad_attention[sample.index] = mean;
      grad_locations[2 * sample.index] = x.around(mean);
      grad_locations[2 * sample.index + 1] = y.around(mean);
    }
  }
  power = sum_of_lanes<kLanes>(power);
  if (group.active && group.lane == 0) grad_power[group.item] = power;
}

// The gradient of values in one order of summation: kLanes lanes a row, whose terms are in `lists`.
template <typename T, int kVector, int kLanes>
__global__ void value_gradients_kernel(
    const Inputs<T> in,
    const T* grad_output,
    const InverseLists lists,
    const Accumulator<T>* coefficients,
    T* grad_values) {
  using A = Accumulator<T>;
  const PointDeformAttnSizes& s = in.sizes;
  const Group<kLanes> group(s.batch * s.tokens * s.heads);
  if (!group.active) return;
  const int64_t m = group.item % s.heads, token = group.item / s.heads % s.tokens;
  const int64_t list = (group.item / s.heads / s.tokens * s.heads + m) * s.tokens + token;
  const int64_t terms = s.samples() * s.neighbors;  // of one row of grad_output
  for (int64_t c = group.lane * kVector; c < s.channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (int64_t i = lists.offsets[list]; i < lists.offsets[list + 1]; ++i) {
      const int64_t term = lists.entries[i];
      add_scaled(coefficients[term], grad_output + term / terms * s.channels + c, sum);
    }
    store(grad_values + group.item * s.channels + c, sum);
  }
}

}  // namespace segcore::point_deform_attn
