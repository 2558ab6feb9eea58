#include "ms_deform_attn.cuh"

#include <algorithm>
#include <tuple>

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "../common/ms_deform_attn.h"
#include "launch.h"

namespace segcore::ms_deform_attn {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// The arguments as the kernels read them.
struct Prepared {
  const MsDeformAttnArguments& arguments;
  const Tensor value, locations, weights;

  Prepared(
      const Tensor& value,
      const Tensor& sampling_locations,
      const Tensor& attention_weights,
      const MsDeformAttnArguments& arguments)
      : arguments(arguments),
        value(torch::stable::contiguous(value)),
        locations(torch::stable::contiguous(sampling_locations)),
        weights(torch::stable::contiguous(attention_weights)) {
    STD_TORCH_CHECK(
        arguments.levels.size() <= kMaxLevels,
        "spatial_shapes: expected at most ", kMaxLevels, " levels on CUDA");
  }

  template <typename T>
  Inputs<T> inputs() const {
    using A = Accumulator<T>;
    Inputs<T> in = {};
    in.sizes = arguments.sizes;
    std::copy(arguments.levels.begin(), arguments.levels.end(), in.level);
    in.value = numbers<T>(value);
    in.locations = numbers<A>(locations);
    in.weights = numbers<A>(weights);
    return in;
  }
};

Tensor run_forward(
    const Tensor& value,
    const Tensor& sampling_locations,
    const Tensor& attention_weights,
    const MsDeformAttnArguments& arguments) {
  const MsDeformAttnSizes& s = arguments.sizes;
  const DeviceGuard guard(value.get_device_index());
  const Prepared prepared(value, sampling_locations, attention_weights, arguments);
  Tensor output = torch::stable::new_empty(value, {s.batch, s.queries, s.heads * s.channels});
  const cudaStream_t stream = current_stream(output);
  for_value_type(value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = prepared.inputs<T>();
    T* to = numbers<T>(output);
    for_row_access<T>(s.channels, are_aligned(in.value, to), [&](auto access) {
      launch(
          forward_kernel<T, access.kVector, access.kLanes>, in.triples() * access.kLanes, stream,
          in, to);
    });
  });
  return output;
}

std::tuple<Tensor, Tensor, Tensor> run_backward(
    const Tensor& grad_output,
    const Tensor& value,
    const Tensor& sampling_locations,
    const Tensor& attention_weights,
    const MsDeformAttnArguments& arguments) {
  const ScalarType type = value.scalar_type(), precision = accumulation_type(type);
  const DeviceGuard guard(value.get_device_index());
  const Prepared prepared(value, sampling_locations, attention_weights, arguments);
  const Tensor upstream = torch::stable::contiguous(grad_output);
  Tensor grad_value = torch::stable::new_zeros(value, value.sizes(), precision);
  Tensor grad_locations = torch::stable::new_empty(sampling_locations, sampling_locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(attention_weights, attention_weights.sizes());
  const cudaStream_t stream = current_stream(upstream);
  for_value_type(type, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Inputs<T> in = prepared.inputs<T>();
    const T* grad = numbers<T>(upstream);
    A* to = numbers<A>(grad_value);
    for_row_access<T>(
        arguments.sizes.channels, are_aligned(in.value, grad, to), [&](auto access) {
          launch(
              backward_kernel<T, access.kVector, access.kLanes>, in.triples() * access.kLanes,
              stream, in, grad, to, numbers<A>(grad_locations), numbers<A>(grad_weights));
        });
  });
  return {torch::stable::to(grad_value, type), grad_locations, grad_weights};
}

}  // namespace
}  // namespace segcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl("ms_deform_attn", TORCH_BOX(&ms_deform_attn_operator<ms_deform_attn::run_forward>));
  library.impl(
      "ms_deform_attn_backward",
      TORCH_BOX(&ms_deform_attn_backward_operator<ms_deform_attn::run_backward>));
}
