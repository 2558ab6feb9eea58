// Kernels of deformable attention over tokens. kLanes lanes work on one (batch, query, head) triple:
// each prepares one of its samples, and one neighbor of it after the other is shared with the others,
// each of which reads kVector neighboring channels.
//
// Offset: integer type of offsets in all tensors, of 32 bits where sizes allow.
#pragma once

#include <algorithm>
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
  int64_t largest_offset() const {
    const int64_t terms = triples() * sizes.samples() * std::max<int64_t>(sizes.neighbors, 2);
    const int64_t table = sizes.batch * sizes.levels * sizes.cells() * sizes.neighbors;
    const int64_t rows = std::max(sizes.batch * sizes.tokens * sizes.heads, triples());
    return std::max({terms, table, rows * std::max<int64_t>(sizes.channels, 2)});
  }
};

// The triple of a group, with the sizes in the type of offsets.
template <typename Offset>
struct Place {
  Offset triple, image, head, tokens, stride;  // stride: of a token in values

  __device__ Place(const PointDeformAttnSizes& s, int64_t item)
      : triple(static_cast<Offset>(item)),
        tokens(static_cast<Offset>(s.tokens)),
        stride(static_cast<Offset>(s.heads * s.channels)) {
    const Offset heads = static_cast<Offset>(s.heads), query = triple / heads;
    head = triple - query * heads;
    image = query / static_cast<Offset>(s.queries);
  }
  // First channel of the head, in values and their gradient.
  __device__ Offset head_offset(const PointDeformAttnSizes& s) const {
    return image * tokens * stride + head * static_cast<Offset>(s.channels);
  }
};

template <typename A>
struct Exponent {
  A exponent;

  __device__ Power<A> operator()(A x) const { return {std::pow(x, exponent), std::log2(x)}; }
};

// A neighbor of a sample: no token (-1), and a negative distance, where there is none.
template <typename A, typename Offset>
struct Neighbor {
  Offset token;
  A x, y, squared_distance;  // from the token to the location
};

// A sample as the lane that prepares it knows it.
template <typename A, typename Offset>
struct Sample {
  Offset index;               // among all samples of the batch
  A x, y, attention;
  A total;                    // inverse distance of all neighbors
  const A* positions;         // of its image
  const int64_t* neighbors;  // null if there is no such sample
};

template <typename A, typename Offset>
__device__ inline Neighbor<A, Offset> neighbor(
    const Place<Offset>& place, const Sample<A, Offset>& sample, int number) {
  const int64_t index = sample.neighbors == nullptr ? -1 : sample.neighbors[number];
  if (index < 0 || index >= place.tokens) return {-1, 0, 0, -1};
  const Offset token = static_cast<Offset>(index);
  const A x = sample.x - sample.positions[2 * token];
  const A y = sample.y - sample.positions[2 * token + 1];
  return {token, x, y, x * x + y * y};
}

template <typename T, typename Offset>
__device__ inline Sample<Accumulator<T>, Offset> prepare_sample(
    const Inputs<T>& in, const Place<Offset>& place, Offset number) {
  using A = Accumulator<T>;
  const PointDeformAttnSizes& s = in.sizes;
  const Offset samples = static_cast<Offset>(s.samples());
  const Offset height = static_cast<Offset>(s.height), width = static_cast<Offset>(s.width);
  Sample<A, Offset> sample = {};
  if (number >= samples) return sample;
  const Offset level = number / static_cast<Offset>(s.points);
  sample.index = place.triple * samples + number;
  sample.x = in.locations[2 * sample.index];
  sample.y = in.locations[2 * sample.index + 1];
  sample.attention = in.attention[sample.index];
  sample.positions = in.positions + 2 * place.image * place.tokens;
  const Offset map = place.image * static_cast<Offset>(s.levels) + level;
  const Offset cell = nearest_cell(sample.y, height) * width + nearest_cell(sample.x, width);
  const int neighbors = static_cast<int>(s.neighbors);
  sample.neighbors = in.neighbors + (map * height * width + cell) * neighbors;
  for (int k = 0; k < neighbors; ++k) {
    const A squared_distance = neighbor(place, sample, k).squared_distance;
    sample.total += inverse_distance(Exponent<A>{*in.power}, squared_distance);
  }
  return sample;
}

// The weight of a neighbor in the interpolation.
template <typename T, typename A, typename Offset>
__device__ inline A weight_of(
    const Inputs<T>& in, const Sample<A, Offset>& sample, const Neighbor<A, Offset>& neighbor) {
  if (neighbor.token < 0) return 0;
  return inverse_distance(Exponent<A>{*in.power}, neighbor.squared_distance) / sample.total;
}

template <typename T, typename Offset, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.triples());
  const Place<Offset> place(in.sizes, group.item);
  const T* values = in.values + place.head_offset(in.sizes);
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset samples = static_cast<Offset>(in.sizes.samples());
  for (Offset start = 0; start < channels; start += kVector * kLanes) {
    const Offset channel = start + group.lane * kVector;
    const bool reads = channel < channels;
    A sum[kVector] = {};
    for (Offset first = 0; first < samples; first += kLanes) {
      const Sample<A, Offset> sample = prepare_sample(in, place, first + group.lane);
      for (int k = 0; k < in.sizes.neighbors; ++k) {
        const Neighbor<A, Offset> nearest = neighbor(place, sample, k);
        const A coefficient = weight_of(in, sample, nearest) * sample.attention;
        for (int i = 0; i < chunk_size<kLanes>(samples, first); ++i) {
          const Offset token = from_lane<kLanes>(nearest.token, i);
          const A scale = from_lane<kLanes>(coefficient, i);
          if (token < 0 || !reads) continue;
          add_scaled(scale, values + token * place.stride + channel, sum);
        }
      }
    }
    if (group.active && reads) store(output + place.triple * channels + channel, sum);
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
template <typename T, typename Offset, int kVector, int kLanes>
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
  const Place<Offset> place(in.sizes, group.item);
  const T* values = in.values + place.head_offset(in.sizes);
  if (grad_values != nullptr) grad_values += place.head_offset(in.sizes);
  const int64_t map = place.image * in.sizes.heads + place.head;
  const int64_t no_token = in.sizes.batch * in.sizes.heads * in.sizes.tokens;
  const Offset channels = static_cast<Offset>(in.sizes.channels);
  const Offset samples = static_cast<Offset>(in.sizes.samples());
  grad_output += place.triple * channels;
  A power = 0;
  for (Offset first = 0; first < samples; first += kLanes) {
    const Sample<A, Offset> sample = prepare_sample(in, place, first + group.lane);
    const int count = chunk_size<kLanes>(samples, first);
    SlopeSum<A> x, y, exponent;
    A mean = 0;
    for (int k = 0; k < in.sizes.neighbors; ++k) {
      const Neighbor<A, Offset> nearest = neighbor(place, sample, k);
      const A weight = weight_of(in, sample, nearest), coefficient = weight * sample.attention;
      A sample_dot = 0;
      for (int i = 0; i < count; ++i) {
        const Offset token = from_lane<kLanes>(nearest.token, i);
        const A scale = from_lane<kLanes>(coefficient, i);
        A dot = 0;
        if (group.active && token >= 0) {
          const Offset row = token * place.stride;
          dot = dot_of_lane<kVector, kLanes>(grad_output, values + row, channels, group.lane);
          for (Offset c = group.lane * kVector; c < channels; c += kVector * kLanes) {
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
        const Offset term = sample.index * static_cast<Offset>(in.sizes.neighbors) + k;
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
template <typename T, typename Offset, int kVector, int kLanes>
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
  const Offset heads = static_cast<Offset>(s.heads), tokens = static_cast<Offset>(s.tokens);
  const Offset channels = static_cast<Offset>(s.channels), item = static_cast<Offset>(group.item);
  const Offset place = item / heads, m = item - place * heads, n = place / tokens;
  const Offset list = (n * heads + m) * tokens + place - n * tokens;
  const Offset terms = static_cast<Offset>(s.samples() * s.neighbors);  // of a row of grad_output
  const Offset begin = static_cast<Offset>(lists.offsets[list]);
  const Offset end = static_cast<Offset>(lists.offsets[list + 1]);
  for (Offset c = group.lane * kVector; c < channels; c += kVector * kLanes) {
    A sum[kVector] = {};
    for (Offset i = begin; i < end; ++i) {
      const Offset term = static_cast<Offset>(lists.entries[i]);
      add_scaled(coefficients[term], grad_output + term / terms * channels + c, sum);
    }
    store(grad_values + item * channels + c, sum);
  }
}

}  // namespace segcore::point_deform_attn
