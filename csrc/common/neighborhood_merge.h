// The arguments of the merging of neighbourhoods, checked. The messages for users are in
// projects/segcore/ops; these guard calls of torch.ops.segcore.
#pragma once

#include <optional>
#include <utility>

#include <torch/csrc/stable/tensor.h>

#include "checks.h"
#include "neighborhood_merge_sizes.h"

namespace segcore {

// The arguments of the operator, in the order of its schema.
struct __attribute__((visibility("hidden"))) NeighborhoodMergeArguments {
  const torch::stable::Tensor &features, &positions, &centers, &members;
  const std::optional<torch::stable::Tensor>&mask, &importance;
  const torch::stable::Tensor &linear_weight, &linear_bias, &norm_weight, &norm_bias;
};

inline NeighborhoodMergeSizes check_neighborhood_merge(const NeighborhoodMergeArguments& a) {
  using torch::headeronly::ScalarType;
  check_dim("features", a.features, 3);
  check_dim("members", a.members, 3);
  const NeighborhoodMergeSizes s = {
      a.features.size(0), a.features.size(1), a.features.size(2), a.members.size(1),
      a.members.size(2)};
  check_sizes("members", a.members, {s.batch, s.queries, s.members});
  check_type("members", a.members, ScalarType::Long);
  check_same_device("members", a.members, a.features);
  check_sizes("positions", a.positions, {s.batch, s.tokens, 2});
  check_sizes("centers", a.centers, {s.batch, s.queries, 2});
  check_sizes("linear_weight", a.linear_weight, {kMergeWeights, kMergeFeatures});
  check_sizes("linear_bias", a.linear_bias, {kMergeWeights});
  check_sizes("norm_weight", a.norm_weight, {kMergeWeights});
  check_sizes("norm_bias", a.norm_bias, {kMergeWeights});
  const ScalarType precision = accumulation_type(a.features.scalar_type());
  for (const auto& [name, tensor] :
       {std::pair("positions", &a.positions), std::pair("centers", &a.centers),
        std::pair("linear_weight", &a.linear_weight), std::pair("linear_bias", &a.linear_bias),
        std::pair("norm_weight", &a.norm_weight), std::pair("norm_bias", &a.norm_bias)}) {
    check_type(name, *tensor, precision);
    check_same_device(name, *tensor, a.features);
  }
  if (a.mask) {
    check_sizes("mask", *a.mask, {s.batch, s.queries, s.members});
    check_type("mask", *a.mask, ScalarType::Bool);
    check_same_device("mask", *a.mask, a.features);
  }
  if (a.importance) {
    check_sizes("importance", *a.importance, {s.batch, s.tokens});
    check_type("importance", *a.importance, precision);
    check_same_device("importance", *a.importance, a.features);
  }
  return s;
}

inline NeighborhoodMergeSizes check_neighborhood_merge_backward(
    const torch::stable::Tensor& grad_output, const NeighborhoodMergeArguments& a) {
  const NeighborhoodMergeSizes s = check_neighborhood_merge(a);
  check_sizes("grad_output", grad_output, {s.batch, s.queries, kMergeWeights * s.channels});
  check_type("grad_output", grad_output, a.features.scalar_type());
  check_same_device("grad_output", grad_output, a.features);
  return s;
}

}  // namespace segcore
