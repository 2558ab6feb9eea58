// The CUDA kernels of attention over clusters as C functions on arrays in host memory.
#include "cuda_on_host.h"

#include <torch/headeronly/util/Half.h>

#include "../../csrc/cuda/cluster_attention.cuh"

namespace {

using namespace segcore;
using namespace segcore::cluster_attention;

// Two warps a block, and in some cases one without work in the last block.
constexpr unsigned kThreads = 64;

unsigned blocks_for(int64_t warps) {
  return static_cast<unsigned>((warps * kWarp + kThreads - 1) / kThreads);
}

// Contiguous (batch, tokens, heads, channels).
template <typename T>
Rows<const T> rows(const ClusterAttentionSizes& s, const void* data) {
  const int64_t token = s.heads * s.channels;
  return {static_cast<const T*>(data), s.tokens * token, token, s.channels};
}

// sizes: those of ClusterAttentionSizes; tensors: q, k, v, clusters, positions, pos_weight, pos_bias,
// blank_k, blank_v, grad_output, users, borders.
template <typename T>
BackwardInputs<T> make_inputs(const int64_t* sizes, double scale, const void* const* tensors) {
  using A = Accumulator<T>;
  const ClusterAttentionSizes s = {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]};
  const auto numbers = [&](int i) { return static_cast<const A*>(tensors[i]); };
  return {
      {s, static_cast<A>(scale), rows<T>(s, tensors[0]), rows<T>(s, tensors[1]),
       rows<T>(s, tensors[2]), static_cast<const int32_t*>(tensors[3]), numbers(4), numbers(5),
       numbers(6), numbers(7), numbers(8)},
      rows<T>(s, tensors[9]),
      static_cast<const int32_t*>(tensors[10]),
      static_cast<const int64_t*>(tensors[11])};
}

// results: output, then the gradients of q, k, v, pos_weight, pos_bias, blank_k, blank_v.
template <typename T, int kVector>
void run_all(const int64_t* sizes, double scale, const void* const* tensors, void* const* results) {
  using A = Accumulator<T>;
  const BackwardInputs<T> all = make_inputs<T>(sizes, scale, tensors);
  const Inputs<T>& in = all.forward;
  const auto to = [&](int i) { return static_cast<T*>(results[i]); };
  const auto parameters = [&](int i) { return static_cast<A*>(results[i]); };
  std::vector<TokenSums<A>> sums(in.triples());
  const unsigned blocks = blocks_for(in.triples());
  cuda_on_host::run(blocks, kThreads, [&] { forward_kernel<T, kVector>(in, to(0)); });
  cuda_on_host::run(blocks, kThreads, [&] {
    backward_queries_kernel<T, kVector>(all, to(1), sums.data());
  });
  cuda_on_host::run(blocks, kThreads, [&] {
    backward_keys_kernel<T, kVector>(all, sums.data(), to(2), to(3));
  });
  cuda_on_host::run(blocks_for(in.sizes.heads * parameters_of_head(in.sizes)), kThreads, [&] {
    backward_parameters_kernel<T>(
        all, sums.data(), parameters(4), parameters(5), parameters(6), parameters(7));
  });
}

}  // namespace

#define DEFINE(SUFFIX, T, VECTOR)                                                                \
  extern "C" void cluster_attention_##SUFFIX(                                                    \
      const int64_t* sizes, double scale, const void* const* tensors, void* const* results) {    \
    run_all<T, VECTOR>(sizes, scale, tensors, results);                                          \
  }

DEFINE(float64_1, double, 1)
DEFINE(float64_2, double, 2)
DEFINE(float32_1, float, 1)
DEFINE(float32_4, float, 4)
DEFINE(float16_8, torch::headeronly::Half, 8)
