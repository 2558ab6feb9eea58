// Kernels of multi-scale deformable attention. kLanes lanes work on one (batch, query, head) triple:
// each prepares one of its samples in turn and shares it with the others, and each reads kVector
// neighboring channels of every corner. Nothing here knows of PyTorch's tensors, so that
// tests/csrc can run the kernels without a GPU.
#pragma once

#include "../common/bilinear.h"
#include "../common/ms_deform_attn_sizes.h"
#include "warp.cuh"

namespace segcore::ms_deform_attn {

// The levels travel in the kernel's parameters, so that nothing has to be copied to the device.
constexpr int kMaxLevels = 64;

template <typename T>
struct Inputs {
  using A = Accumulator<T>;

  MsDeformAttnSizes sizes;
  Level level[kMaxLevels];
  const T* value;      // (batch, tokens, heads, channels)
  const A* locations;  // (batch, queries, heads, levels, points, 2)
  const A* weights;    // (batch, queries, heads, levels, points)

  C10_HOST_DEVICE int64_t triples() const { return sizes.batch * sizes.queries * sizes.heads; }
  // First channel, in value and its gradient, of the head of a triple.
  C10_HOST_DEVICE int64_t head_offset(int64_t triple) const {
    const int64_t n = triple / sizes.heads / sizes.queries, m = triple % sizes.heads;
    return (n * sizes.tokens * sizes.heads + m) * sizes.channels;
  }
  C10_HOST_DEVICE int64_t token_stride() const { return sizes.heads * sizes.channels; }
};

// One sample as it is shared between lanes: its top left token (negative: it does not touch the
// map), the way to the right and to the bottom corners in tokens, and the weights of the corners.
template <typename A>
struct SharedSample {
  int64_t token;
  int right, down;
  A weight[4];

  __device__ int64_t corner_token(int k) const {
    return token + (k % 2 ? right : 0) + (k / 2 ? down : 0);
  }
};

template <int kLanes, typename A>
__device__ inline SharedSample<A> sample_from_lane(const SharedSample<A>& sample, int source) {
  SharedSample<A> result;
  result.token = from_lane<kLanes>(sample.token, source);
  result.right = from_lane<kLanes>(sample.right, source);
  result.down = from_lane<kLanes>(sample.down, source);
  for (int k = 0; k < 4; ++k) result.weight[k] = from_lane<kLanes>(sample.weight[k], source);
  return result;
}

// A sample as the lane that prepares it knows it.
template <typename A>
struct LaneSample {
  AxisSample<A> x, y;
  A attention;
  Level level;
  SharedSample<A> shared;
};

// Sample `index` of a triple; one that does not touch the map if there are not as many.
template <typename T>
__device__ inline LaneSample<Accumulator<T>> prepare_sample(
    const Inputs<T>& in, int64_t triple, int64_t index) {
  using A = Accumulator<T>;
  LaneSample<A> sample = {};
  sample.shared.token = -1;
  if (index >= in.sizes.samples()) return sample;
  sample.level = in.level[index / in.sizes.points];
  const int64_t number = triple * in.sizes.samples() + index;
  const A x = cell_position(in.locations[2 * number], sample.level.width);
  const A y = cell_position(in.locations[2 * number + 1], sample.level.height);
  if (!touches_map(x, sample.level.width) || !touches_map(y, sample.level.height)) return sample;
  sample.x = sample_axis(x, sample.level.width);
  sample.y = sample_axis(y, sample.level.height);
  sample.attention = in.weights[number];
  sample.shared.token =
      sample.level.first_token + sample.y.cell[0] * sample.level.width + sample.x.cell[0];
  sample.shared.right = static_cast<int>(sample.x.cell[1] - sample.x.cell[0]);
  sample.shared.down =
      static_cast<int>((sample.y.cell[1] - sample.y.cell[0]) * sample.level.width);
  for (int k = 0; k < 4; ++k) {
    sample.shared.weight[k] = sample.attention * sample.y.weight[k / 2] * sample.x.weight[k % 2];
  }
  return sample;
}

template <typename T, int kVector, int kLanes>
__global__ void forward_kernel(const Inputs<T> in, T* output) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.triples());
  const T* value = in.value + in.head_offset(group.item);
  const int64_t channels = in.sizes.channels, samples = in.sizes.samples();
  for (int64_t start = 0; start < channels; start += kVector * kLanes) {
    const int64_t channel = start + group.lane * kVector;
    const bool reads = channel < channels;
    A sum[kVector] = {};
    for (int64_t first = 0; first < samples; first += kLanes) {
      const LaneSample<A> lane_sample = prepare_sample(in, group.item, first + group.lane);
      for (int i = 0; i < chunk_size<kLanes>(samples, first); ++i) {
        const SharedSample<A> sample = sample_from_lane<kLanes>(lane_sample.shared, i);
        if (sample.token < 0 || !reads) continue;
        for (int k = 0; k < 4; ++k) {
          const T* corner = value + sample.corner_token(k) * in.token_stride();
          add_scaled(sample.weight[k], corner + channel, sum);
        }
      }
    }
    if (group.active && reads) store(output + group.item * channels + channel, sum);
  }
}

template <typename T, int kVector, int kLanes>
__global__ void backward_kernel(
    const Inputs<T> in,
    const T* grad_output,
    Accumulator<T>* grad_value,
    Accumulator<T>* grad_locations,
    Accumulator<T>* grad_weights) {
  using A = Accumulator<T>;
  const Group<kLanes> group(in.triples());
  const T* value = in.value + in.head_offset(group.item);
  grad_value += in.head_offset(group.item);
  grad_output += group.item * in.sizes.channels;
  const int64_t channels = in.sizes.channels, samples = in.sizes.samples();
  for (int64_t first = 0; first < samples; first += kLanes) {
    const LaneSample<A> lane_sample = prepare_sample(in, group.item, first + group.lane);
    A lane_dots[4] = {};
    const int count = chunk_size<kLanes>(samples, first);
    for (int i = 0; i < count; ++i) {
      const SharedSample<A> sample = sample_from_lane<kLanes>(lane_sample.shared, i);
      A dots[4] = {};
      if (group.active && sample.token >= 0) {
        for (int64_t channel = group.lane * kVector; channel < channels;
             channel += kVector * kLanes) {
          A grad[kVector];
          load(grad_output + channel, grad);
          for (int k = 0; k < 4; ++k) {
            const int64_t offset = sample.corner_token(k) * in.token_stride() + channel;
            A corner[kVector];
            load(value + offset, corner);
            for (int j = 0; j < kVector; ++j) dots[k] += grad[j] * corner[j];
            if (sample.weight[k] != 0) atomic_add(grad_value + offset, sample.weight[k], grad);
          }
        }
      }
      for (int k = 0; k < 4; ++k) {
        const A total = sum_of_lanes<kLanes>(dots[k]);
        if (group.lane == i) lane_dots[k] = total;
      }
    }
    if (group.active && group.lane < count) {
      const SampleGradient<A> gradient = sample_gradient(lane_sample.y, lane_sample.x, lane_dots);
      const int64_t sample = group.item * samples + first + group.lane;
      grad_weights[sample] = gradient.weight;
      grad_locations[2 * sample] =
          lane_sample.attention * static_cast<A>(lane_sample.level.width) * gradient.x;
      grad_locations[2 * sample + 1] =
          lane_sample.attention * static_cast<A>(lane_sample.level.height) * gradient.y;
    }
  }
}

}  // namespace segcore::ms_deform_attn
