// The arguments of deformable attention over tokens, checked. The messages for users are in
// projects/segcore/ops; these guard calls of torch.ops.segcore.
#pragma once

#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

#include "checks.h"
#include "point_deform_attn_sizes.h"

namespace segcore {

// The arguments of the operator, in the order of its schema.
struct __attribute__((visibility("hidden"))) PointDeformAttnArguments {
  const torch::stable::Tensor &values, &positions, &neighbours;
  const std::vector<int64_t>& canvas;
  const torch::stable::Tensor &locations, &attention, &power;
};

inline PointDeformAttnSizes check_point_deform_attn(const PointDeformAttnArguments& a) {
  using torch::headeronly::ScalarType;
  check_dim("values", a.values, 4);
  check_dim("neighbours", a.neighbours, 4);
  check_dim("locations", a.locations, 6);
  // Beyond this, float32 does not tell neighbouring cells apart.
  constexpr int64_t kMaxCanvas = 1 << 24;
  STD_TORCH_CHECK(
      a.canvas.size() == 2 && a.canvas[0] >= 1 && a.canvas[1] >= 1 && a.canvas[0] <= kMaxCanvas &&
          a.canvas[1] <= kMaxCanvas,
      "canvas: expected (height, width) from 1 to ", kMaxCanvas);
  const PointDeformAttnSizes s = {
      a.values.size(0),     a.values.size(1),     a.values.size(2),    a.values.size(3),
      a.neighbours.size(1), a.neighbours.size(3), a.locations.size(1), a.locations.size(4),
      a.canvas[0],          a.canvas[1]};
  check_sizes("positions", a.positions, {s.batch, s.tokens, 2});
  check_sizes("neighbours", a.neighbours, {s.batch, s.levels, s.cells(), s.neighbours});
  check_sizes("locations", a.locations, {s.batch, s.queries, s.heads, s.levels, s.points, 2});
  check_sizes("attention", a.attention, {s.batch, s.queries, s.heads, s.levels, s.points});
  check_sizes("power", a.power, {1});
  check_type("neighbours", a.neighbours, ScalarType::Long);
  const ScalarType precision = accumulation_type(a.values.scalar_type());
  check_type("positions", a.positions, precision);
  check_type("locations", a.locations, precision);
  check_type("attention", a.attention, precision);
  check_type("power", a.power, precision);
  check_same_device("positions", a.positions, a.values);
  check_same_device("neighbours", a.neighbours, a.values);
  check_same_device("locations", a.locations, a.values);
  check_same_device("attention", a.attention, a.values);
  check_same_device("power", a.power, a.values);
  return s;
}

// The operator as a device registers it: checks, and calls kRun with the arguments and sizes.
template <auto kRun>
torch::stable::Tensor point_deform_attn_operator(
    const torch::stable::Tensor& values,
    const torch::stable::Tensor& positions,
    const torch::stable::Tensor& neighbours,
    const std::vector<int64_t>& canvas,
    const torch::stable::Tensor& locations,
    const torch::stable::Tensor& attention,
    const torch::stable::Tensor& power) {
  const PointDeformAttnArguments arguments = {
      values, positions, neighbours, canvas, locations, attention, power};
  return kRun(arguments, check_point_deform_attn(arguments));
}

using PointDeformAttnGradients = std::tuple<
    torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

template <auto kRun>
PointDeformAttnGradients point_deform_attn_backward_operator(
    const torch::stable::Tensor& grad_output,
    const torch::stable::Tensor& values,
    const torch::stable::Tensor& positions,
    const torch::stable::Tensor& neighbours,
    const std::vector<int64_t>& canvas,
    const torch::stable::Tensor& locations,
    const torch::stable::Tensor& attention,
    const torch::stable::Tensor& power) {
  const PointDeformAttnArguments arguments = {
      values, positions, neighbours, canvas, locations, attention, power};
  const PointDeformAttnSizes s = check_point_deform_attn(arguments);
  check_grad_output(grad_output, {s.batch, s.queries, s.heads * s.channels}, values);
  return kRun(grad_output, arguments, s);
}

}  // namespace segcore
