#include "cluster_attention.cuh"

#include <torch/csrc/stable/library.h>

#include "../common/cluster_attention.h"
#include "../common/dispatch.h"
#include "launch.h"

namespace segcore::cluster_attention {
namespace {

using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// True if every row can be read 16 bytes at a time.
template <typename T>
bool is_aligned(const Rows<const T>& rows) {
  constexpr int64_t kCount = kVectorBytes / sizeof(T);
  return are_aligned(rows.data) && rows.batch % kCount == 0 && rows.token % kCount == 0 &&
      rows.head % kCount == 0;
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
        data_ptr<int32_t>(clusters),
        data_ptr<A>(positions),
        data_ptr<A>(pos_weight),
        data_ptr<A>(pos_bias),
        data_ptr<A>(blank_k),
        data_ptr<A>(blank_v)};
  }
};

Tensor run_forward(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s) {
  const DeviceGuard guard(a.q.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.q, s.output());
  for_value_type(a.q.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    constexpr int kVector = kVectorBytes / sizeof(T);
    const Inputs<T> in = prepared.inputs<T>();
    const bool aligned = s.channels % kVector == 0 && is_aligned(in.q) && is_aligned(in.k);
    launch(
        aligned ? forward_kernel<T, kVector> : forward_kernel<T, 1>, in.triples() * kWarp,
        current_stream(output), in, data_ptr<T>(output));
  });
  return output;
}

// The gradients as they are returned: of q, k, v, pos_weight, pos_bias, blank_k, blank_v.
struct Gradients {
  Tensor q, k, v, pos_weight, pos_bias, blank_k, blank_v;
};

template <typename T, int kVector>
void launch_backward(
    const BackwardInputs<T>& all,
    TokenSums<Accumulator<T>>* sums,
    Gradients& grad,
    cudaStream_t stream) {
  using A = Accumulator<T>;
  const ClusterAttentionSizes& s = all.forward.sizes;
  const int64_t threads = all.forward.triples() * kWarp;
  launch(
      backward_queries_kernel<T, kVector>, threads, stream, all, data_ptr<T>(grad.q), sums);
  launch(
      backward_keys_kernel<T, kVector>, threads, stream, all, sums, data_ptr<T>(grad.k),
      data_ptr<T>(grad.v));
  launch(
      backward_parameters_kernel<T>, s.heads * parameters_of_head(s) * kWarp, stream, all, sums,
      data_ptr<A>(grad.pos_weight), data_ptr<A>(grad.pos_bias), data_ptr<A>(grad.blank_k),
      data_ptr<A>(grad.blank_v));
}

template <typename T>
void backward(const BackwardInputs<T>& all, Gradients& grad, cudaStream_t stream) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorBytes / sizeof(T);
  const Inputs<T>& in = all.forward;
  const int64_t count = in.triples() * static_cast<int64_t>(sizeof(TokenSums<A>) / sizeof(A));
  Tensor sums = torch::stable::new_empty(grad.pos_bias, {count});
  auto* target = reinterpret_cast<TokenSums<A>*>(data_ptr<A>(sums));
  if (in.sizes.channels % kVector == 0 && is_aligned(in.q) && is_aligned(in.k) &&
      is_aligned(in.v) && is_aligned(all.grad_output)) {
    launch_backward<T, kVector>(all, target, grad, stream);
  } else {
    launch_backward<T, 1>(all, target, grad, stream);
  }
}

ClusterAttentionGradients run_backward(
    const Tensor& grad_output,
    const ClusterAttentionArguments& a,
    const ClusterAttentionSizes& s) {
  const DeviceGuard guard(a.q.get_device_index());
  const auto empty = [](const Tensor& argument) {
    return torch::stable::new_empty(argument, argument.sizes());
  };
  Gradients grad = {empty(a.q),        empty(a.k),       empty(a.v),      empty(a.pos_weight),
                    empty(a.pos_bias), empty(a.blank_k), empty(a.blank_v)};
  const Prepared prepared(a, s);
  const InverseClusters inverse(a, s);
  const Tensor upstream = with_rows(grad_output);
  for_value_type(a.q.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const BackwardInputs<T> all = {
        prepared.inputs<T>(), rows_of<T>(upstream, s.channels),
        data_ptr<int32_t>(inverse.indices), data_ptr<int64_t>(inverse.offsets)};
    backward(all, grad, current_stream(upstream));
  });
  return {grad.q,        grad.k,       grad.v,      grad.pos_weight,
          grad.pos_bias, grad.blank_k, grad.blank_v};
}

}  // namespace
}  // namespace segcore::cluster_attention

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl(
      "cluster_attention", TORCH_BOX(&ClusterAttention::forward<cluster_attention::run_forward>));
  library.impl(
      "cluster_attention_backward",
      TORCH_BOX(&ClusterAttention::backward<cluster_attention::run_backward>));
}
