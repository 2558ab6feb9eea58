// Takes the place of CUDA's header to run kernels on the CPU, lane by lane, and so to test what they
// compute where there is no GPU. The lanes of a warp take turns: each runs until it exchanges values
// with the others or returns. A warp of which only some lanes take part in an exchange is an error
// here (on a GPU, it hangs).
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __shared__ static  // warps run one after the other
#define __launch_bounds__(...)

struct float4 {
  float x, y, z, w;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

using cudaStream_t = void*;

enum cudaError_t { cudaSuccess = 0 };

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace cuda_on_host {

constexpr int kWarp = 32;

constexpr size_t kStackBytes = 1 << 16;

struct Lane {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  unsigned thread = 0;
  bool waits = false;
  char sent[16];
};

struct Warp {
  Lane lanes[kWarp];
  char received[kWarp][16];  // what the lanes sent in the latest exchange
  ucontext_t scheduler;
  int current = 0;
  std::function<void()> kernel;
};

inline Warp* warp = nullptr;
inline dim3 threadIdx, blockIdx, blockDim;

inline void run_lane() {
  warp->kernel();
  warp->lanes[warp->current].waits = false;
  swapcontext(&warp->lanes[warp->current].context, &warp->scheduler);
}

// Continues every lane up to its next exchange; returns whether there was one.
inline bool advance() {
  int waiting = 0;
  for (warp->current = 0; warp->current < kWarp; ++warp->current) {
    Lane& lane = warp->lanes[warp->current];
    threadIdx.x = lane.thread;
    swapcontext(&warp->scheduler, &lane.context);
    waiting += lane.waits;
  }
  if (waiting != 0 && waiting != kWarp) throw std::runtime_error("a part of a warp exchanges");
  for (int i = 0; i < kWarp; ++i) std::memcpy(warp->received[i], warp->lanes[i].sent, 16);
  return waiting != 0;
}

inline void run(unsigned blocks, unsigned threads, const std::function<void()>& kernel) {
  static Warp own;
  warp = &own;
  own.kernel = kernel;
  blockDim.x = threads;
  for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) {
    for (unsigned first = 0; first < threads; first += kWarp) {
      for (int i = 0; i < kWarp; ++i) {
        Lane& lane = own.lanes[i];
        lane.thread = first + i;
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack.data();
        lane.context.uc_stack.ss_size = lane.stack.size();
        makecontext(&lane.context, run_lane, 0);
      }
      while (advance()) {
      }
    }
  }
}

// Sends a value to the warp; returns what another lane sent.
template <typename T>
T exchange(T value, int source) {
  static_assert(sizeof(T) <= 16);
  const int lane = warp->current;
  std::memcpy(warp->lanes[lane].sent, &value, sizeof(T));
  warp->lanes[lane].waits = true;
  swapcontext(&warp->lanes[lane].context, &warp->scheduler);
  std::memcpy(&value, warp->received[source], sizeof(T));
  return value;
}

}  // namespace cuda_on_host

using cuda_on_host::blockDim;
using cuda_on_host::blockIdx;
using cuda_on_host::threadIdx;

template <typename T>
T __shfl_sync(unsigned, T value, int source, int width) {
  const int lane = cuda_on_host::warp->current;
  return cuda_on_host::exchange(value, lane / width * width + source % width);
}

template <typename T>
T __shfl_xor_sync(unsigned, T value, int distance, int = cuda_on_host::kWarp) {
  return cuda_on_host::exchange(value, cuda_on_host::warp->current ^ distance);
}

template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned distance) {
  const int lane = cuda_on_host::warp->current, source = lane - static_cast<int>(distance);
  return cuda_on_host::exchange(value, source < 0 ? lane : source);
}

template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned distance) {
  const int lane = cuda_on_host::warp->current, source = lane + static_cast<int>(distance);
  return cuda_on_host::exchange(value, source < cuda_on_host::kWarp ? source : lane);
}

inline int __any_sync(unsigned, int predicate) {
  for (int distance = cuda_on_host::kWarp / 2; distance > 0; distance /= 2) {
    predicate |= cuda_on_host::exchange(
        predicate, cuda_on_host::warp->current ^ distance);
  }
  return predicate;
}

inline unsigned __ballot_sync(unsigned, int predicate) {
  unsigned ballot = predicate ? 1u << cuda_on_host::warp->current : 0u;
  for (int distance = cuda_on_host::kWarp / 2; distance > 0; distance /= 2) {
    ballot |= cuda_on_host::exchange(ballot, cuda_on_host::warp->current ^ distance);
  }
  return ballot;
}

inline int __reduce_min_sync(unsigned, int value) {
  for (int distance = cuda_on_host::kWarp / 2; distance > 0; distance /= 2) {
    const int other = cuda_on_host::exchange(value, cuda_on_host::warp->current ^ distance);
    value = other < value ? other : value;
  }
  return value;
}

inline void __syncwarp() { cuda_on_host::exchange(0, 0); }

inline float rsqrtf(float number) { return 1 / std::sqrt(number); }

inline uint32_t __float_as_uint(float number) {
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof(bits));
  return bits;
}

inline float __uint_as_float(uint32_t bits) {
  float number;
  std::memcpy(&number, &bits, sizeof(number));
  return number;
}

// d (16 x 8) += a (16 x 8) b (8 x 8) by the fragments of PTX for mma.m16n8k8 with .tf32: lane 4 g + t has of
// a (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4), of b (t, g), (t + 4, g), of d (g, 2 t), (g, 2 t + 1),
// (g + 8, 2 t), (g + 8, 2 t + 1). The 13 lowest bits of a factor are not read.
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static float left[16][8], right[8][8];
  const int lane = cuda_on_host::warp->current, g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) {
    left[g + i % 2 * 8][t + i / 2 * 4] = __uint_as_float(a[i] & 0xffffe000u);
  }
  for (int i = 0; i < 2; ++i) right[t + i * 4][g] = __uint_as_float(b[i] & 0xffffe000u);
  __syncwarp();
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 8; ++k) d[i] += left[g + i / 2 * 8][k] * right[k][2 * t + i % 2];
  }
  __syncwarp();
}

template <typename T>
void atomicAdd(T* address, T value) {
  *address += value;
}

inline void atomicAdd(float4* address, float4 value) {
  address->x += value.x;
  address->y += value.y;
  address->z += value.z;
  address->w += value.w;
}

inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(
    const cudaLaunchConfig_t* config,
    void (*kernel)(Parameters...),
    const Arguments&... arguments) {
  cuda_on_host::run(config->gridDim.x, config->blockDim.x, [&] { kernel(arguments...); });
  return cudaSuccess;
}
