#include "cluster_attention.cuh"

#include <cstdint>
#include <optional>
#include <tuple>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../common/cluster_attention.h"
#include "stream.h"

namespace segcore::cluster_attention {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;

// The tensor itself if its last dimension lies side by side.
Tensor with_rows(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool rows = tensor.stride(last) == 1 || tensor.size(last) <= 1;
  return rows ? tensor : torch::stable::contiguous(tensor);
}

template <typename T>
Rows<const T> rows_of(const Tensor& tensor, int64_t head_stride) {
  const T* data = static_cast<const T*>(tensor.const_data_ptr());
  return {data, tensor.stride(0), tensor.stride(1), head_stride};
}

// Whether every row can be read 16 bytes at a time.
template <typename T>
bool is_aligned(const Rows<const T>& rows) {
  constexpr int64_t kCount = kVectorBytes / sizeof(T);
  return reinterpret_cast<uintptr_t>(rows.data) % kVectorBytes == 0 && rows.batch % kCount == 0 &&
      rows.token % kCount == 0 && rows.head % kCount == 0;
}

// The arguments as the kernels read them.
struct Prepared {
  const ClusterAttentionSizes sizes;
  const double scale;
  const Tensor q, k, v, clusters, positions, pos_weight, pos_bias, blank_k, blank_v;

  Prepared(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s)
      : sizes(s),
        scale(a.scale),
        q(with_rows(a.q)),
        k(with_rows(a.k)),
        v(with_rows(a.v)),
        clusters(torch::stable::contiguous(a.clusters)),
        positions(torch::stable::contiguous(a.positions)),
        pos_weight(torch::stable::contiguous(a.pos_weight)),
        pos_bias(torch::stable::contiguous(a.pos_bias)),
        blank_k(torch::stable::contiguous(a.blank_k)),
        blank_v(torch::stable::contiguous(a.blank_v)) {}

  template <typename T>
  Inputs<T> inputs() const {
    using A = Accumulator<T>;
    return {
        sizes,
        static_cast<A>(scale),
        rows_of<T>(q, q.stride(2)),
        rows_of<T>(k, k.stride(2)),
        rows_of<T>(v, v.stride(2)),
        clusters.const_data_ptr<int32_t>(),
        positions.const_data_ptr<A>(),
        pos_weight.const_data_ptr<A>(),
        pos_bias.const_data_ptr<A>(),
        blank_k.const_data_ptr<A>(),
        blank_v.const_data_ptr<A>()};
  }
};

// Blocks for `warps` warps.
unsigned blocks_for(int64_t warps) {
  const int64_t blocks = (warps * kWarp + kThreads - 1) / kThreads;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "q: too many tokens for one launch");
  return static_cast<unsigned>(blocks);
}

template <typename T>
void forward(const Prepared& prepared, Tensor& output) {
  const Inputs<T> in = prepared.inputs<T>();
  constexpr int kVector = kVectorBytes / sizeof(T);
  T* to = static_cast<T*>(output.mutable_data_ptr());
  const unsigned blocks = blocks_for(in.triples());
  const cudaStream_t stream = current_stream(output);
  if (in.sizes.channels % kVector == 0 && is_aligned(in.q) && is_aligned(in.k)) {
    forward_kernel<T, kVector><<<blocks, kThreads, 0, stream>>>(in, to);
  } else {
    forward_kernel<T, 1><<<blocks, kThreads, 0, stream>>>(in, to);
  }
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// The gradients as they are returned: of q, k, v, pos_weight, pos_bias, blank_k, blank_v.
struct Gradients {
  Tensor &q, &k, &v, &pos_weight, &pos_bias, &blank_k, &blank_v;
};

template <typename T, int kVector>
void launch_backward(
    const BackwardInputs<T>& all,
    TokenSums<Accumulator<T>>* sums,
    const Gradients& grad,
    cudaStream_t stream) {
  using A = Accumulator<T>;
  const ClusterAttentionSizes& s = all.forward.sizes;
  const unsigned blocks = blocks_for(all.forward.triples());
  backward_queries_kernel<T, kVector><<<blocks, kThreads, 0, stream>>>(
      all, static_cast<T*>(grad.q.mutable_data_ptr()), sums);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  backward_keys_kernel<T, kVector><<<blocks, kThreads, 0, stream>>>(
      all, sums, static_cast<T*>(grad.k.mutable_data_ptr()),
      static_cast<T*>(grad.v.mutable_data_ptr()));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  const unsigned parameter_blocks = blocks_for(s.heads * parameters_of_head(s));
  backward_parameters_kernel<T><<<parameter_blocks, kThreads, 0, stream>>>(
      all, sums, grad.pos_weight.mutable_data_ptr<A>(), grad.pos_bias.mutable_data_ptr<A>(),
      grad.blank_k.mutable_data_ptr<A>(), grad.blank_v.mutable_data_ptr<A>());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void backward(
    const Prepared& prepared,
    const Tensor& grad_output,
    const Tensor& users,
    const Tensor& borders,
    const Gradients& grad) {
  using A = Accumulator<T>;
  const BackwardInputs<T> all = {
      prepared.inputs<T>(),
      rows_of<T>(grad_output, prepared.sizes.channels),
      users.const_data_ptr<int32_t>(),
      borders.const_data_ptr<int64_t>()};
  const Inputs<T>& in = all.forward;
  const int64_t numbers = in.triples() * static_cast<int64_t>(sizeof(TokenSums<A>) / sizeof(A));
  Tensor sums = torch::stable::new_empty(prepared.positions, {numbers});
  auto* to = reinterpret_cast<TokenSums<A>*>(sums.mutable_data_ptr());
  const cudaStream_t stream = current_stream(grad_output);
  constexpr int kVector = kVectorBytes / sizeof(T);
  if (in.sizes.channels % kVector == 0 && is_aligned(in.q) && is_aligned(in.k) &&
      is_aligned(in.v) && is_aligned(all.grad_output)) {
    launch_backward<T, kVector>(all, to, grad, stream);
  } else {
    launch_backward<T, 1>(all, to, grad, stream);
  }
}

Tensor cluster_attention(
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& positions,
    const Tensor& clusters,
    int64_t cluster_size,
    const Tensor& pos_weight,
    const Tensor& pos_bias,
    const Tensor& blank_k,
    const Tensor& blank_v,
    double scale,
    const std::optional<Tensor>&,
    const std::optional<Tensor>&) {
  const ClusterAttentionArguments arguments = {
      q, k, v, positions, clusters, cluster_size, pos_weight, pos_bias, blank_k, blank_v, scale};
  const ClusterAttentionSizes s = check_cluster_attention(arguments);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  Tensor output = torch::stable::new_empty(q, {s.batch, s.tokens, s.heads * s.channels});
  if (output.numel() == 0) return output;
  const Prepared prepared(arguments, s);
  switch (q.scalar_type()) {
    case ScalarType::Double:
      forward<double>(prepared, output);
      break;
    case ScalarType::Float:
      forward<float>(prepared, output);
      break;
    case ScalarType::Half:
      forward<Half>(prepared, output);
      break;
    default:
      forward<BFloat16>(prepared, output);
  }
  return output;
}

using SevenTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

SevenTensors cluster_attention_backward(
    const Tensor& grad_output,
    const Tensor& q,
    const Tensor& k,
    const Tensor& v,
    const Tensor& positions,
    const Tensor& clusters,
    int64_t cluster_size,
    const Tensor& pos_weight,
    const Tensor& pos_bias,
    const Tensor& blank_k,
    const Tensor& blank_v,
    double scale,
    const Tensor& users,
    const Tensor& borders) {
  const ClusterAttentionArguments arguments = {
      q, k, v, positions, clusters, cluster_size, pos_weight, pos_bias, blank_k, blank_v, scale};
  const ClusterAttentionSizes s =
      check_cluster_attention_backward(grad_output, arguments, users, borders);
  const torch::stable::accelerator::DeviceGuard guard(q.get_device_index());
  // Zeros for the case that no kernel runs.
  const auto like = [](const Tensor& tensor) {
    return torch::stable::new_zeros(tensor, tensor.sizes());
  };
  Tensor grad_q = like(q), grad_k = like(k), grad_v = like(v);
  Tensor grad_pos_weight = like(pos_weight), grad_pos_bias = like(pos_bias);
  Tensor grad_blank_k = like(blank_k), grad_blank_v = like(blank_v);
  if (q.numel() > 0) {
    const Prepared prepared(arguments, s);
    const Tensor upstream = with_rows(grad_output);
    const Tensor all_users = torch::stable::contiguous(users);
    const Tensor all_borders = torch::stable::contiguous(borders);
    const Gradients grad = {
        grad_q, grad_k, grad_v, grad_pos_weight, grad_pos_bias, grad_blank_k, grad_blank_v};
    const auto run = [&](auto kernels) {
      kernels(prepared, upstream, all_users, all_borders, grad);
    };
    switch (q.scalar_type()) {
      case ScalarType::Double:
        run(backward<double>);
        break;
      case ScalarType::Float:
        run(backward<float>);
        break;
      case ScalarType::Half:
        run(backward<Half>);
        break;
      default:
        run(backward<BFloat16>);
    }
  }
  return {
      grad_q, grad_k, grad_v, grad_pos_weight, grad_pos_bias, grad_blank_k, grad_blank_v};
}

}  // namespace
}  // namespace segcore::cluster_attention

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  library.impl("cluster_attention", TORCH_BOX(&segcore::cluster_attention::cluster_attention));
  library.impl(
      "cluster_attention_backward",
      TORCH_BOX(&segcore::cluster_attention::cluster_attention_backward));
}
