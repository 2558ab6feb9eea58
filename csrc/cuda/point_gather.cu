#include "point_gather.cuh"

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "../common/point_gather.h"
#include "inverse_lists.h"
#include "launch.h"

namespace segcore::point_gather {
namespace {

using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// The arguments as the kernels read them.
struct Prepared {
  const PointGatherSizes sizes;
  const Tensor features, indices, weights;

  Prepared(const PointGatherArguments& a, const PointGatherSizes& s)
      : sizes(s),
        features(torch::stable::contiguous(a.features)),
        indices(torch::stable::contiguous(a.indices)),
        weights(torch::stable::contiguous(a.weights)) {}

  template <typename T>
  Inputs<T> inputs() const {
    return {
        sizes,
        data_ptr<T>(features),
        data_ptr<int64_t>(indices),
        data_ptr<Accumulator<T>>(weights)};
  }
};

template <typename T>
void forward(const Inputs<T>& in, T* output, cudaStream_t stream) {
  const bool aligned = are_aligned(in.features, output);
  for_row_access<T>(in.sizes.channels, aligned, in.largest_offset(), [&](auto access, auto offset) {
    launch(
        forward_kernel<T, decltype(offset), access.kVector, access.kLanes>,
        in.queries() * access.kLanes, stream, in, output);
  });
}

template <typename T>
void backward(
    const Inputs<T>& in,
    const T* grad_output,
    const InverseLists& lists,
    T* grad_features,
    Accumulator<T>* grad_weights,
    cudaStream_t stream) {
  const bool aligned = are_aligned(in.features, grad_output, grad_features);
  for_row_access<T>(in.sizes.channels, aligned, in.largest_offset(), [&](auto access, auto offset) {
    using Offset = decltype(offset);
    launch(
        weight_gradients_kernel<T, Offset, access.kVector, access.kLanes>,
        in.queries() * access.kLanes, stream, in, grad_output, grad_weights);
    launch(
        feature_gradients_kernel<T, Offset, access.kVector, access.kLanes>,
        in.tokens() * access.kLanes, stream, in, grad_output, lists, grad_features);
  });
}

Tensor run_forward(const PointGatherArguments& a, const PointGatherSizes& s) {
  const DeviceGuard guard(a.features.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.features, s.output());
  for_value_type(a.features.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    forward<T>(prepared.inputs<T>(), data_ptr<T>(output), current_stream(output));
  });
  return output;
}

PointGatherGradients run_backward(
    const Tensor& grad_output, const PointGatherArguments& a, const PointGatherSizes& s) {
  const DeviceGuard guard(a.features.get_device_index());
  const Prepared prepared(a, s);
  const Tensor grad = torch::stable::contiguous(grad_output);
  const Bins bins = invert(prepared.indices, std::nullopt, s.tokens);
  Tensor grad_features = torch::stable::new_empty(a.features, a.features.sizes());
  Tensor grad_weights = torch::stable::new_empty(a.weights, a.weights.sizes());
  for_value_type(a.features.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    backward<T>(
        prepared.inputs<T>(), data_ptr<T>(grad), bins.lists(), data_ptr<T>(grad_features),
        data_ptr<Accumulator<T>>(grad_weights), current_stream(grad));
  });
  return {grad_features, grad_weights};
}

}  // namespace
}  // namespace segcore::point_gather

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl("point_gather", TORCH_BOX(&PointGather::forward<point_gather::run_forward>));
  library.impl(
      "point_gather_backward", TORCH_BOX(&PointGather::backward<point_gather::run_backward>));
}
