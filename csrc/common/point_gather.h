// The arguments of weighted sums of tokens, checked.
#pragma once

#include <tuple>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"
#include "point_gather_sizes.h"

namespace segcore {

struct __attribute__((visibility("hidden"))) PointGatherArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<const Tensor&, const Tensor&, const Tensor&>;

  const Tensor &features, &indices, &weights;
};

inline PointGatherSizes check_point_gather(const PointGatherArguments& a) {
  check_dim("features", a.features, 3);
  check_dim("indices", a.indices, 3);
  const PointGatherSizes s = {
      a.features.size(0), a.features.size(1), a.features.size(2), a.indices.size(1),
      a.indices.size(2)};
  check_sizes("indices", a.indices, {s.batch, s.queries, s.neighbors});
  check_sizes("weights", a.weights, {s.batch, s.queries, s.neighbors});
  check_type("indices", a.indices, torch::headeronly::ScalarType::Long);
  check_type("weights", a.weights, accumulation_type(a.features.scalar_type()));
  check_same_device("indices", a.indices, a.features);
  check_same_device("weights", a.weights, a.features);
  return s;
}

using PointGather = Operator<PointGatherArguments, check_point_gather>;

// Gradients of features, weights.
using PointGatherGradients = std::tuple<torch::stable::Tensor, torch::stable::Tensor>;

}  // namespace segcore
