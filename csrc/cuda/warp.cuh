// Groups of lanes of a warp that work on one item together.
#pragma once

#include <cstdint>
#include <type_traits>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

constexpr int kWarp = 32;
constexpr int kThreadsOfBlock = 256;
constexpr int kWarpsOfBlock = kThreadsOfBlock / kWarp;
constexpr unsigned kWholeWarp = 0xffffffffu;

// Type that sums over values of type T are accumulated in.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

// The item and lane of a thread, kLanes an item. Threads beyond the last item repeat it, without
// results, since whole warps exchange values. There has to be an item.
template <int kLanes>
struct Group {
  int lane;
  bool active;
  int64_t item;

  __device__ explicit Group(int64_t items) {
    const int64_t thread = thread_index();
    lane = static_cast<int>(thread % kLanes);
    active = thread / kLanes < items;
    item = active ? thread / kLanes : items - 1;
  }
};

// The warp of a thread among those of its block.
__device__ inline int warp_of_block() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }

// Number of items that a chunk of kLanes has, one a lane, that begins at `first`.
template <int kLanes>
__device__ inline int chunk_size(int64_t count, int64_t first) {
  return static_cast<int>(count - first < kLanes ? count - first : kLanes);
}

// The value that lane `source` of a group of kLanes has.
template <int kLanes, typename T>
__device__ inline T from_lane(T value, int source) {
  return __shfl_sync(kWholeWarp, value, source, kLanes);
}

// Sum over a group of kLanes, known to each of its lanes.
template <int kLanes, typename T>
__device__ inline T sum_of_lanes(T value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, distance, kLanes);
  }
  return value;
}

// Sums of kCount numbers over a group of kLanes at least as many lanes: lane l gets that of number
// l % kCount. kCount - 1 exchanges and one for each further halving of the lanes, instead of all
// halvings for every number.
template <int kLanes, int kCount, typename T>
__device__ inline T spread_sums(T (&values)[kCount], int lane) {
  for (int distance = kCount / 2; distance > 0; distance /= 2) {
    const bool upper = (lane & distance) != 0;
    for (int i = 0; i < distance; ++i) {
      const T sent = upper ? values[i] : values[i + distance];
      const T kept = upper ? values[i + distance] : values[i];
      values[i] = kept + __shfl_xor_sync(kWholeWarp, sent, distance);
    }
  }
  T sum = values[0];
  for (int distance = kCount; distance < kLanes; distance *= 2) {
    sum += __shfl_xor_sync(kWholeWarp, sum, distance);
  }
  return sum;
}

// Largest number of a group of kLanes, known to each of its lanes.
template <int kLanes, typename T>
__device__ inline T max_of_lanes(T value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, value, distance, kLanes);
    value = other > value ? other : value;
  }
  return value;
}

// kCount values that are read or written in one access; their address must be a multiple of their
// size in bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};

template <int kCount, typename Accumulator, typename T>
__device__ inline void load(const T* address, Accumulator (&values)[kCount]) {
  const Pack<T, kCount> pack = *reinterpret_cast<const Pack<T, kCount>*>(address);
  for (int j = 0; j < kCount; ++j) values[j] = static_cast<Accumulator>(pack.values[j]);
}

template <int kCount, typename Accumulator, typename T>
__device__ inline void store(T* address, const Accumulator (&values)[kCount]) {
  Pack<T, kCount> pack;
  for (int j = 0; j < kCount; ++j) pack.values[j] = static_cast<T>(values[j]);
  *reinterpret_cast<Pack<T, kCount>*>(address) = pack;
}

// sum[j] += scale * row[j]
template <int kCount, typename A, typename T>
__device__ inline void add_scaled(A scale, const T* row, A (&sum)[kCount]) {
  A values[kCount];
  load(row, values);
  for (int j = 0; j < kCount; ++j) sum[j] += scale * values[j];
}

// Part of the product of two rows that one of kLanes lanes sums.
template <int kVector, int kLanes, typename T, typename U>
__device__ inline Accumulator<T> dot_of_lane(
    const T* a, const U* b, int64_t channels, int lane) {
  Accumulator<T> sum = 0;
  for (int64_t c = lane * kVector; c < channels; c += kVector * kLanes) {
    Accumulator<T> left[kVector], right[kVector];
    load(a + c, left);
    load(b + c, right);
    for (int j = 0; j < kVector; ++j) sum += left[j] * right[j];
  }
  return sum;
}

// Atomic addition of four floats; their address must be a multiple of 16. One instruction from compute
// capability 9.0 on: CUDA declares it for no other.
__device__ inline void atomic_add_four(float* address, float4 values) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  atomicAdd(address, values.x);
  atomicAdd(address + 1, values.y);
  atomicAdd(address + 2, values.z);
  atomicAdd(address + 3, values.w);
#else
  atomicAdd(reinterpret_cast<float4*>(address), values);
#endif
}

// Atomic addition of scale * values.
template <int kCount, typename T>
__device__ inline void atomic_add(T* address, T scale, const T (&values)[kCount]) {
  if constexpr (std::is_same_v<T, float> && kCount % 4 == 0) {
    for (int j = 0; j < kCount; j += 4) {
      const float4 four = make_float4(
          scale * values[j],
          scale * values[j + 1],
          scale * values[j + 2],
          scale * values[j + 3]);
      atomic_add_four(address + j, four);
    }
  } else {
    for (int j = 0; j < kCount; ++j) atomicAdd(address + j, scale * values[j]);
  }
}

}  // namespace segcore
