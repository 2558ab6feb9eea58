#include "ms_deform_attn.h"

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"

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
        value(packed(a.value)),
        locations(packed(a.sampling_locations)),
        weights(packed(a.attention_weights)) {}

  template <typename T>
  Inputs<T> inputs() const {
    using A = Accumulator<T>;
    const GivenSamples<A> samples = {data_ptr<A>(locations), data_ptr<A>(weights)};
    return make_inputs(sizes, data_ptr<T>(value), samples);
  }
};

Tensor run_forward(const MsDeformAttnArguments& a, const MsDeformAttnLevels& s) {
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.value, s.output());
  for_value_type(a.value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    launch_forward(prepared.inputs<T>(), data_ptr<T>(output), current_stream(output));
  });
  return output;
}

MsDeformAttnGradients run_backward(
    const Tensor& grad_output,
    const MsDeformAttnArguments& a,
    const MsDeformAttnLevels& s,
    bool deterministic) {
  const ScalarType type = a.value.scalar_type(), precision = a.attention_weights.scalar_type();
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  const Tensor upstream = packed(grad_output);
  Tensor grad_value;
  Tensor grad_locations =
      torch::stable::new_empty(a.sampling_locations, a.sampling_locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(a.attention_weights, a.attention_weights.sizes());
  for_value_type(type, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Inputs<T> in = prepared.inputs<T>();
    const SampleGradients<A> grad_samples = {
        data_ptr<A>(grad_locations), data_ptr<A>(grad_weights), nullptr};
    const cudaStream_t stream = current_stream(upstream);
    if (deterministic) {
      grad_value = gather_value_gradient(in, prepared.value, data_ptr<T>(upstream));
      launch_backward<T>(in, data_ptr<T>(upstream), nullptr, grad_samples, stream);
    } else {
      Tensor sums = torch::stable::new_zeros(a.value, a.value.sizes(), precision);
      launch_backward<T>(in, data_ptr<T>(upstream), data_ptr<A>(sums), grad_samples, stream);
      grad_value = torch::stable::to(sums, type);
    }
  });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace segcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl("ms_deform_attn", TORCH_BOX(&MsDeformAttn::forward<ms_deform_attn::run_forward>));
  library.impl(
      "ms_deform_attn_backward",
      TORCH_BOX(&MsDeformAttn::backward_in_mode<ms_deform_attn::run_backward>));
}
