// The arguments of deformable attention over tokens, checked.
#pragma once

#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"
#include "point_deform_attn_sizes.h"

namespace segcore {

struct __attribute__((visibility("hidden"))) PointDeformAttnArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const Tensor&, const Tensor&, const std::vector<int64_t>&, const Tensor&,
      const Tensor&, const Tensor&>;

  const Tensor &values, &positions, &neighbors;
  const std::vector<int64_t>& canvas;
  const Tensor &locations, &attention, &power;
};

inline PointDeformAttnSizes check_point_deform_attn(const PointDeformAttnArguments& a) {
  using torch::headeronly::ScalarType;
  check_dim("values", a.values, 4);
  check_dim("neighbors", a.neighbors, 4);
  check_dim("locations", a.locations, 6);
  // Beyond this, float32 does not tell neighboring cells apart.
  constexpr int64_t kMaxCanvas = 1 << 24;
  STD_TORCH_CHECK(
      a.canvas.size() == 2 && a.canvas[0] >= 1 && a.canvas[1] >= 1 && a.canvas[0] <= kMaxCanvas &&
          a.canvas[1] <= kMaxCanvas,
      "canvas: expected (height, width) from 1 to ", kMaxCanvas);
  const PointDeformAttnSizes s = {
      a.values.size(0),     a.values.size(1),     a.values.size(2),    a.values.size(3),
      a.neighbors.size(1), a.neighbors.size(3), a.locations.size(1), a.locations.size(4),
      a.canvas[0],          a.canvas[1]};
  check_sizes("positions", a.positions, {s.batch, s.tokens, 2});
  check_sizes("neighbors", a.neighbors, {s.batch, s.levels, s.cells(), s.neighbors});
  check_sizes("locations", a.locations, {s.batch, s.queries, s.heads, s.levels, s.points, 2});
  check_sizes("attention", a.attention, {s.batch, s.queries, s.heads, s.levels, s.points});
  check_sizes("power", a.power, {1});
  check_type("neighbors", a.neighbors, ScalarType::Long);
  const ScalarType precision = accumulation_type(a.values.scalar_type());
  check_type("positions", a.positions, precision);
  check_type("locations", a.locations, precision);
  check_type("attention", a.attention, precision);
  check_type("power", a.power, precision);
  check_same_device("positions", a.positions, a.values);
  check_same_device("neighbors", a.neighbors, a.values);
  check_same_device("locations", a.locations, a.values);
  check_same_device("attention", a.attention, a.values);
  check_same_device("power", a.power, a.values);
  return s;
}

using PointDeformAttn = Operator<PointDeformAttnArguments, check_point_deform_attn>;

// Gradients of values, locations, attention, power.
using PointDeformAttnGradients = std::tuple<
    torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

}  // namespace segcore
