// Sizes of weighted sums of tokens, checked. The messages for users are in
// projects/segcore/ops; these guard calls of torch.ops.segcore.
#pragma once

#include <cstdint>

#include <torch/csrc/stable/tensor.h>

#include "checks.h"

namespace segcore {

struct PointGatherSizes {
  int64_t batch, tokens, channels;  // features (batch, tokens, channels)
  int64_t queries, neighbours;      // indices and weights (batch, queries, neighbours)
};

inline PointGatherSizes check_point_gather(
    const torch::stable::Tensor& features,
    const torch::stable::Tensor& indices,
    const torch::stable::Tensor& weights) {
  check_dim("features", features, 3);
  check_dim("indices", indices, 3);
  const PointGatherSizes s = {
      features.size(0), features.size(1), features.size(2), indices.size(1), indices.size(2)};
  check_sizes("indices", indices, {s.batch, s.queries, s.neighbours});
  check_sizes("weights", weights, {s.batch, s.queries, s.neighbours});
  check_type("indices", indices, torch::headeronly::ScalarType::Long);
  check_type("weights", weights, accumulation_type(features.scalar_type()));
  check_same_device("indices", indices, features);
  check_same_device("weights", weights, features);
  return s;
}

inline PointGatherSizes check_point_gather_backward(
    const torch::stable::Tensor& grad_output,
    const torch::stable::Tensor& features,
    const torch::stable::Tensor& indices,
    const torch::stable::Tensor& weights) {
  const PointGatherSizes s = check_point_gather(features, indices, weights);
  check_sizes("grad_output", grad_output, {s.batch, s.queries, s.channels});
  check_type("grad_output", grad_output, features.scalar_type());
  check_same_device("grad_output", grad_output, features);
  return s;
}

}  // namespace segcore
