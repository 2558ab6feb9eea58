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
      numbers<T>(tensors.features),
      numbers<A>(tensors.positions),
      numbers<A>(tensors.centers),
      numbers<int64_t>(tensors.members),
      tensors.mask ? numbers<bool>(*tensors.mask) : nullptr,
      tensors.importance ? numbers<A>(*tensors.importance) : nullptr,
      numbers<A>(tensors.linear_weight),
      numbers<A>(tensors.linear_bias),
      numbers<A>(tensors.norm_weight),
      numbers<A>(tensors.norm_bias)};
}

Tensor run_forward(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s) {
  const DeviceGuard guard(a.features.get_device_index());
  const NeighborhoodMergeTensors tensors(a, s, a.features.scalar_type());
  Tensor output =
      torch::stable::new_empty(a.features, {s.batch, s.queries, kMergeWeights * s.channels});
  const cudaStream_t stream = current_stream(output);
  for_value_type(a.features.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = inputs<T>(tensors);
    T* to = numbers<T>(output);
    for_row_access<T>(s.channels, are_aligned(in.features, to), [&](auto access) {
      launch(
          forward_kernel<T, access.kVector, access.kLanes>, in.queries() * access.kLanes, stream,
          in, to);
    });
  });
  return output;
}

NeighborhoodMergeGradients run_backward(
    const Tensor& grad_output, const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s) {
  constexpr int64_t kCount = MergeParameters<float>::kCount;
  const DeviceGuard guard(a.features.get_device_index());
  const NeighborhoodMergeTensors tensors(a, s, a.features.scalar_type());
  const ScalarType precision = a.positions.scalar_type();
  const int64_t queries = s.batch * s.queries, places = queries * s.members;
  const Tensor upstream = torch::stable::contiguous(grad_output);
  const Bins bins = invert(tensors.members, tensors.mask, s.tokens);
  Tensor weights_of_places = torch::stable::new_empty(a.positions, {places, kMergeWeights});
  Tensor grad_importance_of_places = torch::stable::new_empty(a.positions, {places});
  Tensor grad_features = torch::stable::new_empty(a.features, a.features.sizes());
  Tensor grad_importance = a.importance
      ? torch::stable::new_empty(*a.importance, a.importance->sizes())
      : torch::stable::new_empty(a.positions, {0});
  Tensor grad_net = torch::stable::new_empty(a.positions, {queries, kCount}, ScalarType::Double);
  const cudaStream_t stream = current_stream(upstream);
  for_value_type(a.features.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Inputs<T> in = inputs<T>(tensors);
    const OfPlaces<A> of_places = {
        numbers<A>(weights_of_places), numbers<A>(grad_importance_of_places)};
    const T* grad = numbers<T>(upstream);
    T* to = numbers<T>(grad_features);
    for_row_access<T>(s.channels, are_aligned(in.features, grad, to), [&](auto access) {
      launch(
          net_gradients_kernel<T, access.kVector, access.kLanes>, in.queries() * access.kLanes,
          stream, in, grad, of_places, numbers<double>(grad_net));
      launch(
          token_gradients_kernel<T, access.kVector, access.kLanes>, in.tokens() * access.kLanes,
          stream, in, grad, of_places, bins.lists(), to,
          a.importance ? numbers<A>(grad_importance) : nullptr);
    });
  });
  Tensor totals = sum_of_rows(grad_net, precision);
  int64_t first = 0;
  const auto parameter = [&](const Tensor& like) {
    Tensor part = torch::stable::narrow(totals, 0, first, like.numel());
    first += like.numel();
    return torch::stable::clone(torch::stable::reshape(part, like.sizes()));
  };
  const Tensor grad_linear_weight = parameter(a.linear_weight);
  const Tensor grad_linear_bias = parameter(a.linear_bias);
  const Tensor grad_norm_weight = parameter(a.norm_weight);
  return {grad_features,    grad_importance,  grad_linear_weight,
          grad_linear_bias, grad_norm_weight, parameter(a.norm_bias)};
}

}  // namespace
}  // namespace segcore::neighborhood_merge

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl(
      "neighborhood_merge",
      TORCH_BOX(&neighborhood_merge_operator<neighborhood_merge::run_forward>));
  library.impl(
      "neighborhood_merge_backward",
      TORCH_BOX(&neighborhood_merge_backward_operator<neighborhood_merge::run_backward>));
}
