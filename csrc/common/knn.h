// Sizes of the search for nearest neighbors, checked.
#pragma once

#include <cstdint>

#include <torch/csrc/stable/tensor.h>

#include "checks.h"

namespace segcore {

struct KnnSizes {
  int64_t batch, queries, points, k;
};

inline KnnSizes check_knn(
    const torch::stable::Tensor& queries, const torch::stable::Tensor& points, int64_t k) {
  using torch::headeronly::ScalarType;
  check_dim("queries", queries, 3);
  check_dim("points", points, 3);
  const KnnSizes s = {queries.size(0), queries.size(1), points.size(1), k};
  check_sizes("queries", queries, {s.batch, s.queries, 2});
  check_sizes("points", points, {s.batch, s.points, 2});
  check_type("queries", queries, ScalarType::Float);
  check_type("points", points, ScalarType::Float);
  check_same_device("points", points, queries);
  STD_TORCH_CHECK(
      s.points <= INT32_MAX, "points: expected at most ", INT32_MAX, " an image, got ", s.points);
  STD_TORCH_CHECK(
      1 <= k && k <= s.points, "k: expected 1 up to ", s.points, ", the number of points, got ", k);
  return s;
}

// The operator as a device registers it: checks, and calls kRun with the arguments and sizes.
template <auto kRun>
torch::stable::Tensor knn_operator(
    const torch::stable::Tensor& queries, const torch::stable::Tensor& points, int64_t k) {
  return kRun(queries, points, check_knn(queries, points, k));
}

}  // namespace segcore
