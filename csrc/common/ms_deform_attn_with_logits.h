// The arguments of multi-scale deformable attention from offsets and logits, checked.
#pragma once

#include <cstdint>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

#include "ms_deform_attn.h"

namespace segcore {

struct __attribute__((visibility("hidden"))) MsDeformAttnWithLogitsArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const std::vector<int64_t>&, const Tensor&, const Tensor&, const Tensor&>;

  const Tensor& value;
  const std::vector<int64_t>& spatial_shapes;
  const Tensor &reference_points, &sampling_offsets, &attention_logits;
};

struct MsDeformAttnWithLogitsLevels : MsDeformAttnLevels {
  int64_t coordinates;  // of a reference: 2 of a point, 4 of a box
};

inline MsDeformAttnWithLogitsLevels check_ms_deform_attn_with_logits(
    const MsDeformAttnWithLogitsArguments& a) {
  MsDeformAttnWithLogitsLevels s = {check_levels(a.value, a.spatial_shapes), 0};
  check_dim("sampling_offsets", a.sampling_offsets, 6);
  check_dim("reference_points", a.reference_points, 4);
  s.queries = a.sampling_offsets.size(1);
  s.points = a.sampling_offsets.size(4);
  s.coordinates = a.reference_points.size(3);
  STD_TORCH_CHECK(
      s.coordinates == 2 || s.coordinates == 4,
      "reference_points: expected 2 or 4 coordinates, got ", s.coordinates);
  check_sizes(
      "reference_points", a.reference_points, {s.batch, s.queries, s.levels, s.coordinates});
  check_sizes(
      "sampling_offsets", a.sampling_offsets,
      {s.batch, s.queries, s.heads, s.levels, s.points, 2});
  check_sizes(
      "attention_logits", a.attention_logits, {s.batch, s.queries, s.heads, s.levels, s.points});
  const auto type = a.value.scalar_type(), precision = accumulation_type(type);
  const auto of_offsets = a.sampling_offsets.scalar_type();
  check_type("reference_points", a.reference_points, precision);
  check_type("sampling_offsets", a.sampling_offsets, of_offsets == type ? type : precision);
  check_type("attention_logits", a.attention_logits, of_offsets);
  check_same_device("reference_points", a.reference_points, a.value);
  check_same_device("sampling_offsets", a.sampling_offsets, a.value);
  check_same_device("attention_logits", a.attention_logits, a.value);
  return s;
}

using MsDeformAttnWithLogits =
    Operator<MsDeformAttnWithLogitsArguments, check_ms_deform_attn_with_logits>;

// Gradients of value, reference_points, sampling_offsets, attention_logits.
using MsDeformAttnWithLogitsGradients = std::tuple<
    torch::stable::Tensor,
    torch::stable::Tensor,
    torch::stable::Tensor,
    torch::stable::Tensor>;

}  // namespace segcore
