// The arguments of multi-scale deformable attention, checked.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

#include "ms_deform_attn_sizes.h"
#include "operator.h"

namespace segcore {

struct __attribute__((visibility("hidden"))) MsDeformAttnArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const std::vector<int64_t>&, const Tensor&, const Tensor&>;

  const Tensor& value;
  const std::vector<int64_t>& spatial_shapes;
  const Tensor &sampling_locations, &attention_weights;
};

// Sizes with those of each level.
struct MsDeformAttnLevels : MsDeformAttnSizes {
  std::vector<Level> level;
};

// Sizes of value and of its levels; queries and points are left to the caller.
inline MsDeformAttnLevels check_levels(
    const torch::stable::Tensor& value, const std::vector<int64_t>& shapes) {
  check_dim("value", value, 4);
  STD_TORCH_CHECK(shapes.size() % 2 == 0, "spatial_shapes: expected (height, width) pairs");

  MsDeformAttnLevels s = {};
  int64_t tokens = 0;
  for (size_t i = 0; i < shapes.size(); i += 2) {
    const int64_t height = shapes[i], width = shapes[i + 1];
    STD_TORCH_CHECK(
        0 < height && height <= kMaxSide && 0 < width && width <= kMaxSide,
        "spatial_shapes: expected sizes from 1 to ", kMaxSide, ", got ", height, " x ", width);
    s.level.push_back({height, width, tokens});
    tokens += height * width;
  }
  s.batch = value.size(0);
  s.tokens = value.size(1);
  s.heads = value.size(2);
  s.channels = value.size(3);
  s.levels = static_cast<int64_t>(s.level.size());
  STD_TORCH_CHECK(
      s.tokens == tokens, "value: has ", s.tokens, " tokens, spatial_shapes has ", tokens);
  return s;
}

inline MsDeformAttnLevels check_ms_deform_attn(const MsDeformAttnArguments& a) {
  MsDeformAttnLevels s = check_levels(a.value, a.spatial_shapes);
  check_dim("sampling_locations", a.sampling_locations, 6);
  s.queries = a.sampling_locations.size(1);
  s.points = a.sampling_locations.size(4);
  check_sizes(
      "sampling_locations", a.sampling_locations,
      {s.batch, s.queries, s.heads, s.levels, s.points, 2});
  check_sizes(
      "attention_weights", a.attention_weights, {s.batch, s.queries, s.heads, s.levels, s.points});
  const auto precision = accumulation_type(a.value.scalar_type());
  check_type("sampling_locations", a.sampling_locations, precision);
  check_type("attention_weights", a.attention_weights, precision);
  check_same_device("sampling_locations", a.sampling_locations, a.value);
  check_same_device("attention_weights", a.attention_weights, a.value);
  return s;
}

using MsDeformAttn = Operator<MsDeformAttnArguments, check_ms_deform_attn>;

// Gradients of value, sampling_locations, attention_weights.
using MsDeformAttnGradients =
    std::tuple<torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

}  // namespace segcore
