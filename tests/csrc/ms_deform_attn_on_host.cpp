// The CUDA kernels of multi-scale deformable attention as C functions on arrays in host memory.
#include "cuda_on_host.h"

#include <torch/headeronly/util/Half.h>

#include "../../csrc/cuda/ms_deform_attn.cuh"

namespace {

using namespace segcore;

// Two warps a block, and some threads without work in the last block.
constexpr unsigned kThreads = 64;

template <typename T>
Inputs<T> make_inputs(
    const int64_t* sizes,
    const int64_t* shapes,
    const void* value,
    const void* locations,
    const void* weights) {
  Inputs<T> in = {};
  in.sizes = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], sizes[6]};
  int64_t tokens = 0;
  for (int64_t l = 0; l < in.sizes.levels; ++l) {
    in.level[l] = {shapes[2 * l], shapes[2 * l + 1], tokens};
    tokens += shapes[2 * l] * shapes[2 * l + 1];
  }
  in.value = static_cast<const T*>(value);
  in.locations = static_cast<const Accumulator<T>*>(locations);
  in.weights = static_cast<const Accumulator<T>*>(weights);
  return in;
}

}  // namespace

#define DEFINE(SUFFIX, T, VECTOR, LANES)                                                          \
  extern "C" void forward_##SUFFIX(                                                               \
      const int64_t* sizes, const int64_t* shapes, const void* value, const void* locations,      \
      const void* weights, void* output) {                                                        \
    const auto in = make_inputs<T>(sizes, shapes, value, locations, weights);                     \
    const unsigned blocks = (in.triples() * LANES + kThreads - 1) / kThreads;                     \
    cuda_on_host::run(blocks, kThreads, [&] {                                                     \
      forward_kernel<T, VECTOR, LANES>(in, static_cast<T*>(output));                              \
    });                                                                                           \
  }                                                                                               \
  extern "C" void backward_##SUFFIX(                                                              \
      const int64_t* sizes, const int64_t* shapes, const void* value, const void* locations,      \
      const void* weights, const void* grad_output, void* grad_value, void* grad_locations,       \
      void* grad_weights) {                                                                       \
    using A = Accumulator<T>;                                                                     \
    const auto in = make_inputs<T>(sizes, shapes, value, locations, weights);                     \
    const unsigned blocks = (in.triples() * LANES + kThreads - 1) / kThreads;                     \
    cuda_on_host::run(blocks, kThreads, [&] {                                                     \
      backward_kernel<T, VECTOR, LANES>(                                                          \
          in, static_cast<const T*>(grad_output), static_cast<A*>(grad_value),                    \
          static_cast<A*>(grad_locations), static_cast<A*>(grad_weights));                        \
    });                                                                                           \
  }

DEFINE(float64_1_32, double, 1, 32)
DEFINE(float64_2_4, double, 2, 4)
DEFINE(float64_2_16, double, 2, 16)
DEFINE(float32_1_32, float, 1, 32)
DEFINE(float32_4_4, float, 4, 4)
DEFINE(float32_4_8, float, 4, 8)
DEFINE(float32_4_16, float, 4, 16)
DEFINE(float32_4_32, float, 4, 32)
DEFINE(float16_8_4, torch::headeronly::Half, 8, 4)
DEFINE(float16_8_8, torch::headeronly::Half, 8, 8)
