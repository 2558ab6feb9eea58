#include "ms_deform_attn_with_logits.cuh"

#include <array>

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "../common/ms_deform_attn_with_logits.h"
#include "ms_deform_attn.h"

namespace segcore::ms_deform_attn_with_logits {
namespace {

using namespace ms_deform_attn;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// The arguments as the kernels read them. Where offsets and logits are float beside half values, these
// become float too, so that there are no kernels for every pair of types.
struct Prepared {
  const MsDeformAttnWithLogitsLevels& sizes;
  const ScalarType type;
  const Tensor value, references, offsets, logits;

  Prepared(const MsDeformAttnWithLogitsArguments& a, const MsDeformAttnWithLogitsLevels& s)
      : sizes(s),
        type(a.sampling_offsets.scalar_type()),
        value(packed(torch::stable::to(a.value, type))),
        references(packed(a.reference_points)),
        offsets(packed(a.sampling_offsets)),
        logits(packed(a.attention_logits)) {}

  template <typename T>
  Inputs<T, LogitSamples<T>> inputs() const {
    const LogitSamples<T> samples = {
        data_ptr<Accumulator<T>>(references), data_ptr<T>(offsets), data_ptr<T>(logits),
        static_cast<int>(sizes.coordinates)};
    return make_inputs(sizes, data_ptr<T>(value), samples);
  }
};

Tensor run_forward(
    const MsDeformAttnWithLogitsArguments& a, const MsDeformAttnWithLogitsLevels& s) {
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(prepared.value, s.output());
  for_value_type(prepared.type, [&](auto zero) {
    using T = decltype(zero);
    launch_forward(prepared.inputs<T>(), data_ptr<T>(output), current_stream(output));
  });
  return torch::stable::to(output, a.value.scalar_type());
}

// As in ms_deform_attn: its samples are written to memory, for the lists of those at each cell.
template <typename T>
Tensor gather_value_gradient(
    const Prepared& prepared, const Inputs<T, LogitSamples<T>>& in, const T* grad_output) {
  using A = Accumulator<T>;
  const Tensor& references = prepared.references;
  Tensor locations = torch::stable::new_empty(references, prepared.offsets.sizes());
  Tensor weights = torch::stable::new_empty(references, prepared.logits.sizes());
  launch(
      samples_kernel<T>, in.triples(), current_stream(references), in, data_ptr<A>(locations),
      data_ptr<A>(weights));
  const GivenSamples<A> samples = {data_ptr<A>(locations), data_ptr<A>(weights)};
  return ms_deform_attn::gather_value_gradient(
      make_inputs(prepared.sizes, in.value, samples), prepared.value, grad_output);
}

MsDeformAttnWithLogitsGradients run_backward(
    const Tensor& grad_output,
    const MsDeformAttnWithLogitsArguments& a,
    const MsDeformAttnWithLogitsLevels& s,
    bool deterministic) {
  const ScalarType type = a.sampling_offsets.scalar_type();
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  const Tensor upstream = packed(torch::stable::to(grad_output, type));
  const Tensor& like = prepared.references;
  const std::array<int64_t, 5> by_head = {s.batch, s.queries, s.heads, s.levels, s.coordinates};
  Tensor grad_value;
  // Without points the kernel writes nothing.
  Tensor grad_references = torch::stable::new_zeros(like, by_head);
  Tensor grad_offsets = torch::stable::new_empty(like, a.sampling_offsets.sizes());
  Tensor grad_logits = torch::stable::new_empty(like, a.attention_logits.sizes());
  for_value_type(type, [&](auto zero) {
    using T = decltype(zero);
    using A = Accumulator<T>;
    const Inputs<T, LogitSamples<T>> in = prepared.inputs<T>();
    const SampleGradients<A> grad_samples = {
        data_ptr<A>(grad_offsets), data_ptr<A>(grad_logits), data_ptr<A>(grad_references)};
    const cudaStream_t stream = current_stream(upstream);
    if (deterministic) {
      grad_value = gather_value_gradient<T>(prepared, in, data_ptr<T>(upstream));
      launch_backward<T>(in, data_ptr<T>(upstream), nullptr, grad_samples, stream);
    } else {
      grad_value = torch::stable::new_zeros(like, a.value.sizes());
      launch_backward<T>(
          in, data_ptr<T>(upstream), data_ptr<A>(grad_value), grad_samples, stream);
    }
  });
  const std::array<int64_t, 1> heads = {2};
  return {
      torch::stable::to(grad_value, a.value.scalar_type()),
      torch::stable::sum(
          grad_references, torch::headeronly::IntHeaderOnlyArrayRef(heads.data(), heads.size())),
      torch::stable::to(grad_offsets, type), torch::stable::to(grad_logits, type)};
}

}  // namespace
}  // namespace segcore::ms_deform_attn_with_logits

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl(
      "ms_deform_attn_with_logits",
      TORCH_BOX(&MsDeformAttnWithLogits::forward<ms_deform_attn_with_logits::run_forward>));
  library.impl(
      "ms_deform_attn_with_logits_backward",
      TORCH_BOX(
          &MsDeformAttnWithLogits::backward_in_mode<ms_deform_attn_with_logits::run_backward>));
}
