#include "ms_deform_attn.cuh"

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "../common/ms_deform_attn.h"
#include "stream.h"

namespace segcore {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;
constexpr int kVectorBytes = 16;

template <typename T>
Inputs<T> make_inputs(
    const MsDeformAttnArguments& arguments,
    const Tensor& value,
    const Tensor& locations,
    const Tensor& weights) {
  STD_TORCH_CHECK(
      arguments.levels.size() <= kMaxLevels,
      "spatial_shapes: expected at most ", kMaxLevels, " levels on CUDA");
  Inputs<T> in = {};
  in.sizes = arguments.sizes;
  std::copy(arguments.levels.begin(), arguments.levels.end(), in.level);
  in.value = static_cast<const T*>(value.const_data_ptr());
  in.locations = static_cast<const Accumulator<T>*>(locations.const_data_ptr());
  in.weights = static_cast<const Accumulator<T>*>(weights.const_data_ptr());
  return in;
}

bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kVectorBytes == 0;
}

// A kernel template for one width of access and one number of lanes a triple.
template <typename T>
struct Forward {
  const Inputs<T>& in;
  T* output;
  cudaStream_t stream;

  template <int kVector, int kLanes>
  void launch(unsigned blocks) const {
    forward_kernel<T, kVector, kLanes><<<blocks, kThreads, 0, stream>>>(in, output);
  }
};

template <typename T>
struct Backward {
  const Inputs<T>& in;
  const T* grad_output;
  Accumulator<T>* grad_value;
  Accumulator<T>* grad_locations;
  Accumulator<T>* grad_weights;
  cudaStream_t stream;

  template <int kVector, int kLanes>
  void launch(unsigned blocks) const {
    backward_kernel<T, kVector, kLanes><<<blocks, kThreads, 0, stream>>>(
        in, grad_output, grad_value, grad_locations, grad_weights);
  }
};

template <int kVector, int kLanes, typename Kernel>
void launch(const Kernel& kernel) {
  const int64_t blocks = (kernel.in.triples() * kLanes + kThreads - 1) / kThreads;
  STD_TORCH_CHECK(blocks <= INT32_MAX, "sampling_locations: too many queries for one launch");
  kernel.template launch<kVector, kLanes>(static_cast<unsigned>(blocks));
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

// As few lanes a triple as read all its channels at once; one channel at a time, with the same
// results, where channels or addresses do not allow 16 bytes.
template <typename T, typename Kernel>
void launch_for_channels(const Kernel& kernel, bool aligned) {
  constexpr int kVector = kVectorBytes / sizeof(T);
  const int64_t channels = kernel.in.sizes.channels;
  if (kernel.in.triples() == 0 || channels == 0) return;
  if (!aligned || channels % kVector != 0) return launch<1, 32>(kernel);
  const int64_t lanes = channels / kVector;
  if (lanes <= 4) return launch<kVector, 4>(kernel);
  if (lanes <= 8) return launch<kVector, 8>(kernel);
  if (lanes <= 16) return launch<kVector, 16>(kernel);
  launch<kVector, 32>(kernel);
}

template <typename T>
void forward(
    const MsDeformAttnArguments& arguments,
    const Tensor& value,
    const Tensor& locations,
    const Tensor& weights,
    Tensor& output) {
  const Inputs<T> in = make_inputs<T>(arguments, value, locations, weights);
  T* out = static_cast<T*>(output.mutable_data_ptr());
  const Forward<T> kernel{in, out, current_stream(value)};
  launch_for_channels<T>(kernel, is_aligned(in.value) && is_aligned(out));
}

template <typename T>
void backward(
    const MsDeformAttnArguments& arguments,
    const Tensor& grad_output,
    const Tensor& value,
    const Tensor& locations,
    const Tensor& weights,
    Tensor& grad_value,
    Tensor& grad_locations,
    Tensor& grad_weights) {
  using A = Accumulator<T>;
  const Inputs<T> in = make_inputs<T>(arguments, value, locations, weights);
  const T* grad = static_cast<const T*>(grad_output.const_data_ptr());
  const Backward<T> kernel{
      in,
      grad,
      static_cast<A*>(grad_value.mutable_data_ptr()),
      static_cast<A*>(grad_locations.mutable_data_ptr()),
      static_cast<A*>(grad_weights.mutable_data_ptr()),
      current_stream(value)};
  launch_for_channels<T>(
      kernel, is_aligned(in.value) && is_aligned(grad) && is_aligned(kernel.grad_value));
}

Tensor ms_deform_attn(
    const Tensor& value,
    const std::vector<int64_t>& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const auto arguments =
      check_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights);
  const MsDeformAttnSizes& s = arguments.sizes;
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor weights = torch::stable::contiguous(attention_weights);
  Tensor output = torch::stable::new_empty(value, {s.batch, s.queries, s.heads * s.channels});
  switch (value.scalar_type()) {
    case ScalarType::Double:
      forward<double>(arguments, values, locations, weights, output);
      break;
    case ScalarType::Float:
      forward<float>(arguments, values, locations, weights, output);
      break;
    case ScalarType::Half:
      forward<Half>(arguments, values, locations, weights, output);
      break;
    default:
      forward<BFloat16>(arguments, values, locations, weights, output);
  }
  return output;
}

std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor& grad_output,
    const Tensor& value,
    const std::vector<int64_t>& spatial_shapes,
    const Tensor& sampling_locations,
    const Tensor& attention_weights) {
  const auto arguments = check_ms_deform_attn_backward(
      grad_output, value, spatial_shapes, sampling_locations, attention_weights);
  const ScalarType type = value.scalar_type(), precision = accumulation_type(type);
  const torch::stable::accelerator::DeviceGuard guard(value.get_device_index());
  const Tensor grad = torch::stable::contiguous(grad_output);
  const Tensor values = torch::stable::contiguous(value);
  const Tensor locations = torch::stable::contiguous(sampling_locations);
  const Tensor weights = torch::stable::contiguous(attention_weights);
  Tensor grad_value = torch::stable::new_zeros(value, value.sizes(), precision);
  // Zeros for the case without channels, where no kernel runs.
  Tensor grad_locations = torch::stable::new_zeros(value, locations.sizes(), precision);
  Tensor grad_weights = torch::stable::new_zeros(value, weights.sizes(), precision);
  const auto run = [&](auto kernel) {
    kernel(arguments, grad, values, locations, weights, grad_value, grad_locations, grad_weights);
  };
  switch (type) {
    case ScalarType::Double:
      run(backward<double>);
      break;
    case ScalarType::Float:
      run(backward<float>);
      break;
    case ScalarType::Half:
      run(backward<Half>);
      break;
    default:
      run(backward<BFloat16>);
  }
  return {torch::stable::to(grad_value, type), grad_locations, grad_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  library.impl("ms_deform_attn", TORCH_BOX(&ms_deform_attn));
  library.impl("ms_deform_attn_backward", TORCH_BOX(&ms_deform_attn_backward));
}

}  // namespace segcore
