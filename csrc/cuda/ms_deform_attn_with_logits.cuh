// Samples of multi-scale deformable attention from references, offsets and logits: the kernels of
// ms_deform_attn.cuh compute locations and weights where they read them otherwise.
#pragma once

#include <limits>

#include "../common/reference_axis.h"
#include "ms_deform_attn.cuh"

namespace segcore::ms_deform_attn {

template <typename T>
struct LogitSamples {
  using A = Accumulator<T>;

  const A* references;  // (batch, queries, levels, coordinates)
  const T* offsets;     // (batch, queries, heads, levels, points, 2)
  const T* logits;      // (batch, queries, heads, levels, points)
  int coordinates;

  // Indices in the image of the first sample, of the first reference and of their gradients, and the
  // softmax of the logits.
  template <typename Offset>
  struct Query {
    Offset first, reference;
    A largest, scale;
  };

  __device__ void to_image(const MsDeformAttnSizes& s, int64_t n) {
    const int64_t first = n * s.queries * s.heads * s.samples();
    references += n * s.queries * s.levels * coordinates;
    offsets += 2 * first;
    logits += first;
  }
  __device__ SampleGradients<A> gradients_of_image(
      const MsDeformAttnSizes& s, int64_t n, const SampleGradients<A>& grad) const {
    const int64_t triples = n * s.queries * s.heads;
    return grad.from(triples * s.samples(), triples * s.levels * coordinates);
  }

  // The lanes of a query share its logits.
  template <int kDistance, typename Offset>
  __device__ Query<Offset> query(
      const MsDeformAttnSizes& s, Offset query, Offset head, bool exists) const {
    const Offset samples = static_cast<Offset>(s.samples()), count = exists ? samples : 0;
    const Offset first = (query * static_cast<Offset>(s.heads) + head) * samples;
    A largest = -std::numeric_limits<A>::infinity(), sum = 0;
    for (Offset i = lane_of_warp() / kDistance; i < count; i += kWarp / kDistance) {
      const A logit = static_cast<A>(logits[first + i]);
      largest = logit > largest ? logit : largest;
    }
    for (int distance = kDistance; distance < kWarp; distance *= 2) {
      const A other = __shfl_xor_sync(kWholeWarp, largest, distance);
      largest = other > largest ? other : largest;
    }
    for (Offset i = lane_of_warp() / kDistance; i < count; i += kWarp / kDistance) {
      sum += std::exp(static_cast<A>(logits[first + i]) - largest);
    }
    for (int distance = kDistance; distance < kWarp; distance *= 2) {
      sum += __shfl_xor_sync(kWholeWarp, sum, distance);
    }
    const Offset row = static_cast<Offset>(s.levels) * coordinates;
    return {first, query * row, largest, 1 / sum};
  }

  template <typename Offset>
  __device__ ReferenceAxis<A> axis(
      const MsDeformAttnSizes& s, Query<Offset> query, Offset level, int axis, A cells) const {
    const A* const reference = references + query.reference + level * coordinates;
    return reference_axis(reference, coordinates == 4, axis, cells, static_cast<A>(s.points));
  }
  template <typename Offset>
  __device__ void location(
      const MsDeformAttnSizes& s, Query<Offset> query, Offset number, Offset level,
      const A (&cells)[2], A (&location)[2]) const {
    load(offsets + 2 * (query.first + number), location);
    for (int k = 0; k < 2; ++k) {
      location[k] = axis(s, query, level, k, cells[k]).location(location[k]);
    }
  }
  template <typename Offset>
  __device__ A weight(Query<Offset> query, Offset number) const {
    return std::exp(static_cast<A>(logits[query.first + number]) - query.largest) * query.scale;
  }

  // Gradients of offsets and logits in place of those of locations and weights, and those of the
  // references by this head.
  template <typename Offset>
  __device__ void finish(
      const MsDeformAttnSizes& s, const Level* levels, Query<Offset> query,
      const SampleGradients<A>& grad) const {
    const Offset points = static_cast<Offset>(s.points);
    const Offset row = static_cast<Offset>(s.levels) * coordinates;
    const Offset triple = points == 0 ? 0 : query.first / static_cast<Offset>(s.samples());
    A mean = 0;
    Offset number = 0;
    for (Offset l = 0; l < static_cast<Offset>(s.levels); ++l) {
      const A cells[2] = {static_cast<A>(levels[l].width), static_cast<A>(levels[l].height)};
      const ReferenceAxis<A> axes[2] = {
          axis(s, query, l, 0, cells[0]), axis(s, query, l, 1, cells[1])};
      A center[2] = {}, extent[2] = {};
      for (Offset p = 0; p < points; ++p, ++number) {
        const Offset sample = query.first + number;
        mean += weight(query, number) * grad.weights[sample];
        for (int k = 0; k < 2; ++k) {
          A& to_offset = grad.locations[2 * sample + k];
          center[k] += to_offset;
          extent[k] += to_offset * axes[k].slope_of_extent(static_cast<A>(offsets[2 * sample + k]));
          to_offset = axes[k].displacement(to_offset);
        }
      }
      A* const to_reference = grad.references + triple * row + l * coordinates;
      for (int k = 0; k < 2; ++k) {
        to_reference[k] = center[k];
        if (coordinates == 4) to_reference[2 + k] = extent[k];
      }
    }
    for (Offset i = 0; i < number; ++i) {
      A& to_logit = grad.weights[query.first + i];
      to_logit = weight(query, i) * (to_logit - mean);
    }
  }
};

// Writes the samples, each thread those of one query and head.
template <typename T>
__global__ void samples_kernel(
    const Inputs<T, LogitSamples<T>> in, Accumulator<T>* locations, Accumulator<T>* weights) {
  using A = Accumulator<T>;
  const MsDeformAttnSizes& s = in.sizes;
  const int64_t triple = thread_index();
  if (triple >= in.triples()) return;
  const auto query = in.source.template query<kWarp>(s, triple / s.heads, triple % s.heads, true);
  for (int64_t number = 0; number < s.samples(); ++number) {
    const int64_t l = number / s.points, sample = query.first + number;
    const A cells[2] = {static_cast<A>(in.level[l].width), static_cast<A>(in.level[l].height)};
    A location[2];
    in.source.location(s, query, number, l, cells, location);
    store(locations + 2 * sample, location);
    weights[sample] = in.source.weight(query, number);
  }
}

}  // namespace segcore::ms_deform_attn
