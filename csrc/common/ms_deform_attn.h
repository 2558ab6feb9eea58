// What the CPU and the CUDA kernels of multi-scale deformable attention share: sizes and levels,
// read from the arguments and checked, so that no kernel can leave its tensors. The messages for
// users are in projects/segcore/ops/_checks.py; these guard calls of torch.ops.segcore.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

#include "checks.h"
#include "ms_deform_attn_sizes.h"

namespace segcore {

struct MsDeformAttnArguments {
  MsDeformAttnSizes sizes;
  std::vector<Level> levels;
};

inline MsDeformAttnArguments check_ms_deform_attn(
    const torch::stable::Tensor& value,
    const std::vector<int64_t>& spatial_shapes,
    const torch::stable::Tensor& sampling_locations,
    const torch::stable::Tensor& attention_weights) {
  using torch::headeronly::ScalarType;
  check_dim("value", value, 4);
  check_dim("sampling_locations", sampling_locations, 6);
  STD_TORCH_CHECK(spatial_shapes.size() % 2 == 0, "spatial_shapes: expected (height, width) pairs");

  MsDeformAttnArguments arguments;
  int64_t tokens = 0;
  for (size_t i = 0; i < spatial_shapes.size(); i += 2) {
    const int64_t height = spatial_shapes[i], width = spatial_shapes[i + 1];
    STD_TORCH_CHECK(
        0 < height && height <= kMaxSide && 0 < width && width <= kMaxSide,
        "spatial_shapes: expected sizes from 1 to ", kMaxSide, ", got ", height, " x ", width);
    arguments.levels.push_back({height, width, tokens});
    tokens += height * width;
  }
  arguments.sizes = {
      value.size(0),
      value.size(1),
      value.size(2),
      value.size(3),
      sampling_locations.size(1),
      static_cast<int64_t>(arguments.levels.size()),
      sampling_locations.size(4)};
  const MsDeformAttnSizes& s = arguments.sizes;
  STD_TORCH_CHECK(
      s.tokens == tokens, "value: has ", s.tokens, " tokens, spatial_shapes has ", tokens);
  check_sizes(
      "sampling_locations",
      sampling_locations,
      {s.batch, s.queries, s.heads, s.levels, s.points, 2});
  check_sizes(
      "attention_weights", attention_weights, {s.batch, s.queries, s.heads, s.levels, s.points});

  const ScalarType precision = accumulation_type(value.scalar_type());
  check_type("sampling_locations", sampling_locations, precision);
  check_type("attention_weights", attention_weights, precision);
  check_same_device("sampling_locations", sampling_locations, value);
  check_same_device("attention_weights", attention_weights, value);
  return arguments;
}

// The operator as a device registers it: checks, and calls kRun with the tensors and the checked sizes.
template <auto kRun>
torch::stable::Tensor ms_deform_attn_operator(
    const torch::stable::Tensor& value,
    const std::vector<int64_t>& spatial_shapes,
    const torch::stable::Tensor& sampling_locations,
    const torch::stable::Tensor& attention_weights) {
  const auto arguments =
      check_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights);
  return kRun(value, sampling_locations, attention_weights, arguments);
}

template <auto kRun>
std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>
ms_deform_attn_backward_operator(
    const torch::stable::Tensor& grad_output,
    const torch::stable::Tensor& value,
    const std::vector<int64_t>& spatial_shapes,
    const torch::stable::Tensor& sampling_locations,
    const torch::stable::Tensor& attention_weights) {
  const auto arguments =
      check_ms_deform_attn(value, spatial_shapes, sampling_locations, attention_weights);
  const MsDeformAttnSizes& s = arguments.sizes;
  check_grad_output(grad_output, {s.batch, s.queries, s.heads * s.channels}, value);
  return kRun(grad_output, value, sampling_locations, attention_weights, arguments);
}

}  // namespace segcore
