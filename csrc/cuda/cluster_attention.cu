#include "cluster_attention.cuh"

#include <torch/csrc/stable/library.h>

#include "../common/cluster_attention.h"
#include "../common/dispatch.h"
#include "launch.h"

namespace segcore::cluster_attention {
namespace {

using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// Whether every row can be read 16 bytes at a time.
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
        numbers<int32_t>(clusters),
        numbers<A>(positions),
        numbers<A>(pos_weight),
        numbers<A>(pos_bias),
        numbers<A>(blank_k),
        numbers<A>(blank_v)};
  }
};

Tensor run_forward(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s) {
  const DeviceGuard guard(a.q.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.q, {s.batch, s.tokens, s.heads * s.channels});
  for_value_type(a.q.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    constexpr int kVector = kVectorBytes / sizeof(T);
    const Inputs<T> in = prepared.inputs<T>();
    const bool aligned = s.channels % kVector == 0 && is_aligned(in.q) && is_aligned(in.k);
    launch(
        aligned ? forward_kernel<T, kVector> : forward_kernel<T, 1>, in.triples() * kWarp,
        current_stream(output), in, numbers<T>(output));
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
      backward_queries_kernel<T, kVector>, threads, stream, all, numbers<T>(grad.q), sums);
  launch(
      backward_keys_kernel<T, kVector>, threads, stream, all, sums, numbers<T>(grad.k),
      numbers<T>(grad.v));
  launch(
      backward_parameters_kernel<T>, s.heads * parameters_of_head(s) * kWarp, stream, all, sums,
      numbers<A>(grad.pos_weight), numbers<A>(grad.pos_bias), numbers<A>(grad.blank_k),
      numbers<A>(grad.blank_v));
}

template <typename T>
void backward(const BackwardInputs<T>& all, Gradients& grad, cudaStream_t stream) {
  using A = Accumulator<T>;
  constexpr int kVector = kVectorBytes / sizeof(T);
  const Inputs<T>& in = all.forward;
  const int64_t count = in.triples() * static_cast<int64_t>(sizeof(TokenSums<A>) / sizeof(A));
  Tensor sums = torch::stable::new_empty(grad.pos_bias, {count});
  auto* to = reinterpret_cast<TokenSums<A>*>(numbers<A>(sums));
  if (in.sizes.channels % kVector == 0 && is_aligned(in.q) && is_aligned(in.k) &&
      is_aligned(in.v) && is_aligned(all.grad_output)) {
    launch_backward<T, kVector>(all, to, grad, stream);
  } else {
    launch_backward<T, 1>(all, to, grad, stream);
  }
}

ClusterAttentionGradients run_backward(
    const Tensor& grad_output,
    const ClusterAttentionArguments& a,
    const Tensor& users,
    const Tensor& borders,
    const ClusterAttentionSizes& s) {
  const DeviceGuard guard(a.q.get_device_index());
  const auto like = [](const Tensor& tensor) {
    return torch::stable::new_empty(tensor, tensor.sizes());
  };
  Gradients grad = {like(a.q),        like(a.k),       like(a.v),      like(a.pos_weight),
                    like(a.pos_bias), like(a.blank_k), like(a.blank_v)};
  const Prepared prepared(a, s);
  const Tensor upstream = with_rows(grad_output);
  for_value_type(a.q.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const BackwardInputs<T> all = {
        prepared.inputs<T>(), rows_of<T>(upstream, s.channels), numbers<int32_t>(users),
        numbers<int64_t>(borders)};
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
      "cluster_attention", TORCH_BOX(&cluster_attention_operator<cluster_attention::run_forward>));
  library.impl(
      "cluster_attention_backward",
      TORCH_BOX(&cluster_attention_backward_operator<cluster_attention::run_backward>));
}
