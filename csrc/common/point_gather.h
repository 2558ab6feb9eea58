// The arguments of weighted sums of tokens, checked. The messages for users are in projects/segcore/ops;
// these guard calls of torch.ops.segcore.
#pragma once

#include <tuple>

#include <torch/csrc/stable/tensor.h>

#include "checks.h"
#include "point_gather_sizes.h"

namespace segcore {

// The arguments of the operator, in the order of its schema.
struct __attribute__((visibility("hidden"))) PointGatherArguments {
  const torch::stable::Tensor &features, &indices, &weights;
};

inline PointGatherSizes check_point_gather(const PointGatherArguments& a) {
  check_dim("features", a.features, 3);
  check_dim("indices", a.indices, 3);
  const PointGatherSizes s = {
      a.features.size(0), a.features.size(1), a.features.size(2), a.indices.size(1),
      a.indices.size(2)};
  check_sizes("indices", a.indices, {s.batch, s.queries, s.neighbours});
  check_sizes("weights", a.weights, {s.batch, s.queries, s.neighbours});
  check_type("indices", a.indices, torch::headeronly::ScalarType::Long);
  check_type("weights", a.weights, accumulation_type(a.features.scalar_type()));
  check_same_device("indices", a.indices, a.features);
  check_same_device("weights", a.weights, a.features);
  return s;
}

// The operator as a device registers it: checks, and calls kRun with the arguments and sizes.
template <auto kRun>
torch::stable::Tensor point_gather_operator(
    const torch::stable::Tensor& features,
    const torch::stable::Tensor& indices,
    const torch::stable::Tensor& weights) {
  const PointGatherArguments arguments = {features, indices, weights};
  return kRun(arguments, check_point_gather(arguments));
}

template <auto kRun>
std::tuple<torch::stable::Tensor, torch::stable::Tensor> point_gather_backward_operator(
    const torch::stable::Tensor& grad_output,
    const torch::stable::Tensor& features,
    const torch::stable::Tensor& indices,
    const torch::stable::Tensor& weights) {
  const PointGatherArguments arguments = {features, indices, weights};
  const PointGatherSizes s = check_point_gather(arguments);
  check_grad_output(grad_output, {s.batch, s.queries, s.channels}, features);
  return kRun(grad_output, arguments, s);
}

}  // namespace segcore
