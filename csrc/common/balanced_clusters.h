// The arguments of balanced clustering, checked. To be included before all else, as patches.h. The
// messages for users are in projects/segcore/ops; these guard calls of torch.ops.segcore.
#pragma once

#include "patches.h"

#include <algorithm>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "checks.h"

namespace segcore {

inline ClusteringSizes check_balanced_clusters(
    const torch::stable::Tensor& positions,
    int64_t cluster_size,
    const std::vector<int64_t>& canvas) {
  check_dim("positions", positions, 3);
  const int64_t tokens = positions.size(1);
  const ClusteringSizes s = {
      positions.size(0), tokens, std::min(cluster_size, std::max<int64_t>(tokens, 1))};
  check_sizes("positions", positions, {s.batch, s.tokens, 2});
  check_type("positions", positions, torch::headeronly::ScalarType::Float);
  STD_TORCH_CHECK(
      s.tokens <= INT32_MAX, "positions: expected at most ", INT32_MAX, " an image");
  STD_TORCH_CHECK(cluster_size >= 1, "cluster_size: expected at least 1, got ", cluster_size);
  STD_TORCH_CHECK(
      canvas.size() == 2 && canvas[0] >= 1 && canvas[1] >= 1,
      "canvas: expected (height, width) of at least 1 x 1");
  return s;
}

// The operator as a device registers it: checks, and calls kRun for the order of contiguous positions,
// and to write the centers; not for empty ones.
template <auto kRun>
std::tuple<torch::stable::Tensor, torch::stable::Tensor> balanced_clusters_operator(
    const torch::stable::Tensor& positions,
    int64_t cluster_size,
    const std::vector<int64_t>& canvas,
    bool per_image) {
  using torch::headeronly::ScalarType;
  const ClusteringSizes s = check_balanced_clusters(positions, cluster_size, canvas);
  torch::stable::Tensor centers = torch::stable::new_empty(positions, {s.batch, s.clusters(), 2});
  if (s.batch == 0 || s.tokens == 0) {
    return {torch::stable::new_empty(positions, {s.batch, s.tokens}, ScalarType::Long), centers};
  }
  const Patches patches(s.clusters(), canvas[0], canvas[1]);
  return {kRun(s, patches, torch::stable::contiguous(positions), per_image, centers), centers};
}

}  // namespace segcore
