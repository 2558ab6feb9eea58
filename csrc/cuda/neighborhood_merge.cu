#include "neighborhood_merge.cuh"

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "../common/neighborhood_merge.h"
#include "aten.h"
#include "inverse_lists.h"
#include "launch.h"

namespace segcore::neighborhood_merge {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// The arguments as the kernels read them.
template <typename T>
Inputs<T> inputs(const NeighborhoodMergeTensors& tensors) {
  using A = Accumulator<T>;
  return {
      tensors.sizes,
      data_ptr<T>(tensors.features),
      data_ptr<A>(tensors.positions),
      data_ptr<A>(tensors.centers),
      data_ptr<int64_t>(tensors.members),
      tensors.mask ? data_ptr<bool>(*tensors.mask) : nullptr,
      tensors.importance ? data_ptr<A>(*tensors.importance) : nullptr,
      data_ptr<A>(tensors.linear_weight),
      data_ptr<A>(tensors.linear_bias),
      data_ptr<A>(tensors.norm_weight),
      data_ptr<A>(tensors.norm_bias)};
}

Tensor run_forward(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s) {
  const DeviceGuard guard(a.features.get_device_index());
  const NeighborhoodMergeTensors tensors(a, s, a.features.scalar_type());
  Tensor output = torch::stable::new_empty(a.features, s.output());
  const cudaStream_t stream = current_stream(output);
  for_value_type(a.features.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = inputs<T>(tensors);
    T* target = data_ptr<T>(output);
    const bool aligned = are_aligned(in.features, target);
    for_row_access<T>(s.channels, aligned, in.largest_offset(), [&](auto access, auto offset) {
      launch(
          forward_kernel<T, decltype(offset), access.kVector, access.kLanes>,
          in.queries() * access.kLanes, stream, in, target);
    });
  });
  return output;
}

NeighborhoodMergeGradients run_backward(
    const Tensor& grad_output,
    const NeighborhoodMergeArguments& a,
    const NeighborhoodMergeSizes& s) {
  constexpr int64_t kCount = MergeParameters<float>::kCount;
  const DeviceGuard guard(a.features.get_device_index());
  const NeighborhoodMergeTensors tensors(a, s, a.features.scalar_type());
  const ScalarType precision = a.positions.scalar_type();
  const int64_t queries = s.batch * s.queries, entries = queries * s.members;
  const Tensor upstream = torch::stable::contiguous(grad_output);
  const Bins bins = invert(tensors.members, tensors.mask, s.tokens);
  Tensor member_weights = torch::stable::new_empty(a.positions, {entries, kMergeWeights});
  Tensor member_grad_importance = torch::stable::new_empty(a.positions, {entries});
  Tensor grad_features = torch::stable::new_empty(a.features, a.features.sizes());
  Tensor grad_importance = a.importance
      ? torch::stable::new_empty(*a.importance, a.importance->sizes())
      : torch::stable::new_empty(a.features, {0});
  Tensor grad_net = torch::stable::new_empty(a.positions, {queries, kCount}, ScalarType::Double);
  const cudaStream_t stream = current_stream(upstream);
  for_value_type(a.features.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Inputs<T> in = inputs<T>(tensors);
    const MemberBuffers<A> buffers = {
        data_ptr<A>(member_weights), data_ptr<A>(member_grad_importance)};
    const T* grad = data_ptr<T>(upstream);
    T* target = data_ptr<T>(grad_features);
    const bool aligned = are_aligned(in.features, grad, target);
    for_row_access<T>(s.channels, aligned, in.largest_offset(), [&](auto access, auto offset) {
      using Offset = decltype(offset);
      launch(
          net_gradients_kernel<T, Offset, access.kVector, access.kLanes>,
          in.queries() * access.kLanes, stream, in, grad, buffers, data_ptr<double>(grad_net));
      launch(
          token_gradients_kernel<T, Offset, access.kVector, access.kLanes>,
          in.tokens() * access.kLanes, stream, in, grad, buffers, bins.lists(), target,
          a.importance ? data_ptr<A>(grad_importance) : nullptr);
    });
  });
  Parts totals(sum_of_rows(grad_net, precision));
  const Tensor grad_linear_weight = totals.next_like(a.linear_weight);
  const Tensor grad_linear_bias = totals.next_like(a.linear_bias);
  const Tensor grad_norm_weight = totals.next_like(a.norm_weight);
  return {grad_features,    grad_importance,  grad_linear_weight,
          grad_linear_bias, grad_norm_weight, totals.next_like(a.norm_bias)};
}

}  // namespace
}  // namespace segcore::neighborhood_merge

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl(
      "neighborhood_merge",
      TORCH_BOX(&NeighborhoodMerge::forward<neighborhood_merge::run_forward>));
  library.impl(
      "neighborhood_merge_backward",
      TORCH_BOX(&NeighborhoodMerge::backward<neighborhood_merge::run_backward>));
}
