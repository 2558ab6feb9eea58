// The arguments of the merging of neighborhoods, checked.
#pragma once

#include <optional>
#include <tuple>
#include <utility>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "neighborhood_merge_sizes.h"
#include "operator.h"

namespace segcore {

struct __attribute__((visibility("hidden"))) NeighborhoodMergeArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&,
      const std::optional<Tensor>&, const Tensor&, const Tensor&, const Tensor&, const Tensor&>;

  const Tensor &features, &positions, &centers, &members;
  const std::optional<Tensor>&mask, &importance;
  const Tensor &linear_weight, &linear_bias, &norm_weight, &norm_bias;
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
  check_sizes("linear_weight", a.linear_weight, {kMergeWeights, kOffsetFeatures});
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

// The arguments as contiguous tensors, features in a type of the device's choice.
struct __attribute__((visibility("hidden"))) NeighborhoodMergeTensors {
  NeighborhoodMergeSizes sizes;
  torch::stable::Tensor features, positions, centers, members;
  std::optional<torch::stable::Tensor> mask, importance;
  torch::stable::Tensor linear_weight, linear_bias, norm_weight, norm_bias;

  NeighborhoodMergeTensors(
      const NeighborhoodMergeArguments& a,
      const NeighborhoodMergeSizes& s,
      torch::headeronly::ScalarType features_type)
      : sizes(s),
        features(torch::stable::contiguous(torch::stable::to(a.features, features_type))),
        positions(torch::stable::contiguous(a.positions)),
        centers(torch::stable::contiguous(a.centers)),
        members(torch::stable::contiguous(a.members)),
        linear_weight(torch::stable::contiguous(a.linear_weight)),
        linear_bias(torch::stable::contiguous(a.linear_bias)),
        norm_weight(torch::stable::contiguous(a.norm_weight)),
        norm_bias(torch::stable::contiguous(a.norm_bias)) {
    if (a.mask) mask = torch::stable::contiguous(*a.mask);
    if (a.importance) importance = torch::stable::contiguous(*a.importance);
  }
};

using NeighborhoodMerge = Operator<NeighborhoodMergeArguments, check_neighborhood_merge>;

// Gradients of features, importance (empty where there is none), linear_weight, linear_bias,
// norm_weight, norm_bias.
using NeighborhoodMergeGradients = std::tuple<
    torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
    torch::stable::Tensor, torch::stable::Tensor>;

}  // namespace segcore
