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
struct Prepared {
  const NeighborhoodMergeSizes sizes;
  const Tensor features, positions, centers, members;
  std::optional<Tensor> mask, importance;
  const Tensor linear_weight, linear_bias, norm_weight, norm_bias;

  Prepared(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s)
      : sizes(s),
        features(torch::stable::contiguous(a.features)),
        positions(torch::stable::contiguous(a.positions)),
        centers(torch::stable::contiguous(a.centers)),
        members(torch::stable::contiguous(a.members)),
        linear_weight(torch::stable::contiguous(a.linear_weight)),
        linear_bias(torch::stable::contiguous(a.linear_bias)),
        norm_weight(torch::stable::contiguous(a.norm_weight)),
        norm_bias(torch::stable::contiguous(a.norm_bias)) {
    if (a.mask) mask = torch::stable::contiguous(*a.mask);
    if (a.importance) importance = torch::stable::contiguous(*a.importance);
  }

  template <typename T>
  Inputs<T> inputs() const {
    using A = Accumulator<T>;
    return {
        sizes,
        numbers<T>(features),
        numbers<A>(positions),
        numbers<A>(centers),
        numbers<int64_t>(members),
        mask ? numbers<bool>(*mask) : nullptr,
        importance ? numbers<A>(*importance) : nullptr,
        numbers<A>(linear_weight),
        numbers<A>(linear_bias),
        numbers<A>(norm_weight),
        numbers<A>(norm_bias)};
  }
};

Tensor run_forward(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s) {
  const DeviceGuard guard(a.features.get_device_index());
  const Prepared prepared(a, s);
  Tensor output =
      torch::stable::new_empty(a.features, {s.batch, s.queries, kMergeWeights * s.channels});
  const cudaStream_t stream = current_stream(output);
  for_value_type(a.features.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = prepared.inputs<T>();
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
  const Prepared prepared(a, s);
  const ScalarType precision = a.positions.scalar_type();
  const int64_t queries = s.batch * s.queries, places = queries * s.members;
  const Tensor upstream = torch::stable::contiguous(grad_output);
  const Bins bins = invert(prepared.members, prepared.mask, s.tokens);
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
    const Inputs<T> in = prepared.inputs<T>();
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
