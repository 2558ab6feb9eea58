// Groups of lanes of a warp that work on one item together.
#pragma once

#include <type_traits>

namespace segcore {

constexpr unsigned kWholeWarp = 0xffffffffu;

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

// Largest number of a group of kLanes, known to each of its lanes.
template <int kLanes, typename T>
__device__ inline T max_of_lanes(T value) {
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, value, distance, kLanes);
    value = other > value ? other : value;
  }
  return value;
}

// kCount numbers that are read or written in one access; their address must be a multiple of their
// size in bytes.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T number[kCount];
};

template <int kCount, typename Accumulator, typename T>
__device__ inline void load(const T* address, Accumulator (&numbers)[kCount]) {
  const Pack<T, kCount> pack = *reinterpret_cast<const Pack<T, kCount>*>(address);
  for (int j = 0; j < kCount; ++j) numbers[j] = static_cast<Accumulator>(pack.number[j]);
}

template <int kCount, typename Accumulator, typename T>
__device__ inline void store(T* address, const Accumulator (&numbers)[kCount]) {
  Pack<T, kCount> pack;
  for (int j = 0; j < kCount; ++j) pack.number[j] = static_cast<T>(numbers[j]);
  *reinterpret_cast<Pack<T, kCount>*>(address) = pack;
}

// Whether four floats can be added at once.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool kHasVectorAtomics = true;
#else
constexpr bool kHasVectorAtomics = false;
#endif

// Atomic addition of scale * numbers.
template <int kCount, typename T>
__device__ inline void atomic_add(T* address, T scale, const T (&numbers)[kCount]) {
  if constexpr (kHasVectorAtomics && std::is_same_v<T, float> && kCount % 4 == 0) {
    for (int j = 0; j < kCount; j += 4) {
      const float4 four = make_float4(
          scale * numbers[j],
          scale * numbers[j + 1],
          scale * numbers[j + 2],
          scale * numbers[j + 3]);
      atomicAdd(reinterpret_cast<float4*>(address + j), four);
    }
  } else {
    for (int j = 0; j < kCount; ++j) atomicAdd(address + j, scale * numbers[j]);
  }
}

}  // namespace segcore
