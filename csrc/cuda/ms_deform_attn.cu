#include "ms_deform_attn.cuh"

#include <algorithm>

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
  const MsDeformAttnLevels& sizes;
  const Tensor value, locations, weights;

  Prepared(const MsDeformAttnArguments& a, const MsDeformAttnLevels& s)
      : sizes(s),
        value(torch::stable::contiguous(a.value)),
        locations(torch::stable::contiguous(a.sampling_locations)),
        weights(torch::stable::contiguous(a.attention_weights)) {
    STD_TORCH_CHECK(
        s.levels <= kMaxLevels, "spatial_shapes: expected at most ", kMaxLevels, " levels on CUDA");
  }

  template <typename T>
  Inputs<T> inputs() const {
    using A = Accumulator<T>;
    Inputs<T> in = {};
    in.sizes = sizes;
    std::copy(sizes.level.begin(), sizes.level.end(), in.level);
    in.value = data_ptr<T>(value);
    in.locations = data_ptr<A>(locations);
    in.weights = data_ptr<A>(weights);
    return in;
  }
};

Tensor run_forward(const MsDeformAttnArguments& a, const MsDeformAttnLevels& s) {
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.value, s.output());
  const cudaStream_t stream = current_stream(output);
  for_value_type(a.value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    const Inputs<T> in = prepared.inputs<T>();
    T* target = data_ptr<T>(output);
    for_row_access<T>(s.channels, are_aligned(in.value, target), [&](auto access) {
      launch(
          forward_kernel<T, access.kVector, access.kLanes>, in.triples() * access.kLanes, stream,
          in, target);
    });
  });
  return output;
}

MsDeformAttnGradients run_backward(
    const Tensor& grad_output, const MsDeformAttnArguments& a, const MsDeformAttnLevels& s) {
  const ScalarType type = a.value.scalar_type(), precision = a.attention_weights.scalar_type();
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  const Tensor upstream = torch::stable::contiguous(grad_output);
  Tensor grad_value = torch::stable::new_zeros(a.value, a.value.sizes(), precision);
  Tensor grad_locations =
      torch::stable::new_empty(a.sampling_locations, a.sampling_locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(a.attention_weights, a.attention_weights.sizes());
  const cudaStream_t stream = current_stream(upstream);
  for_value_type(type, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Inputs<T> in = prepared.inputs<T>();
    const T* grad = data_ptr<T>(upstream);
    A* target = data_ptr<A>(grad_value);
    for_row_access<T>(s.channels, are_aligned(in.value, grad, target), [&](auto access) {
      launch(
          backward_kernel<T, access.kVector, access.kLanes>, in.triples() * access.kLanes, stream,
          in, grad, target, data_ptr<A>(grad_locations), data_ptr<A>(grad_weights));
    });
  });
  return {torch::stable::to(grad_value, type), grad_locations, grad_weights};
}

}  // namespace
}  // namespace segcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl("ms_deform_attn", TORCH_BOX(&MsDeformAttn::forward<ms_deform_attn::run_forward>));
  library.impl(
      "ms_deform_attn_backward", TORCH_BOX(&MsDeformAttn::backward<ms_deform_attn::run_backward>));
}
