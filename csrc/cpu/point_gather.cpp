#include "../common/point_gather.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "dot.h"
#include "grain.h"
#include "in_precision.h"
#include "index_range.h"
#include "inverse_lists.h"
#include "weighted_sum.h"

namespace segcore {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Output of the queries [begin, end) of all images.
template <typename T>
SEGCORE_TARGET_CLONES void gather_queries(
    const PointGatherSizes& s,
    const T* features,
    const int64_t* indices,
    const T* weights,
    int64_t begin,
    int64_t end,
    T* output) {
  for (int64_t i = begin; i < end; ++i) {
    const T* rows = features + i / s.queries * s.tokens * s.channels;
    weighted_sum(
        rows, s.channels, indices + i * s.neighbors, weights + i * s.neighbors, s.neighbors,
        output + i * s.channels);
  }
}

// Gradients of the weights of the queries [begin, end).
template <typename T>
SEGCORE_TARGET_CLONES void weight_gradients(
    const PointGatherSizes& s,
    const T* grad_output,
    const T* features,
    const int64_t* indices,
    int64_t begin,
    int64_t end,
    T* grad_weights) {
  for (int64_t i = begin; i < end; ++i) {
    const T* rows = features + i / s.queries * s.tokens * s.channels;
    for (int64_t e = i * s.neighbors; e < (i + 1) * s.neighbors; ++e) {
      grad_weights[e] =
          dot(grad_output + i * s.channels, rows + indices[e] * s.channels, s.channels);
    }
  }
}

// Gradients of the tokens [begin, end) of one image.
template <typename T>
SEGCORE_TARGET_CLONES void feature_gradients(
    const PointGatherSizes& s,
    const T* grad_output,
    const T* weights,
    const InverseLists& lists,
    int64_t begin,
    int64_t end,
    T* grad_features) {
  std::vector<int64_t> row;
  std::vector<T> weight;
  for (int64_t j = begin; j < end; ++j) {
    row.clear();
    weight.clear();
    for (int64_t i = 0; i < lists.count(j); ++i) {
      const int64_t entry = lists.entries_of(j)[i];
      row.push_back(entry / s.neighbors);
      weight.push_back(weights[entry]);
    }
    weighted_sum(
        grad_output, s.channels, row.data(), weight.data(), lists.count(j),
        grad_features + j * s.channels);
  }
}

template <typename T>
void forward(
    const PointGatherSizes& s,
    const Tensor& features,
    const Tensor& indices,
    const Tensor& weights,
    Tensor& output) {
  const T* feature = features.const_data_ptr<T>();
  const int64_t* index = indices.const_data_ptr<int64_t>();
  const T* weight = weights.const_data_ptr<T>();
  T* out = output.mutable_data_ptr<T>();
  torch::stable::parallel_for(
      0, s.batch * s.queries, grain(s.neighbors * s.channels), [&](int64_t begin, int64_t end) {
        gather_queries(s, feature, index, weight, begin, end, out);
      });
}

template <typename T>
void backward(
    const PointGatherSizes& s,
    const Tensor& grad_output,
    const Tensor& features,
    const Tensor& indices,
    const Tensor& weights,
    Tensor& grad_features,
    Tensor& grad_weights) {
  const T* grad = grad_output.const_data_ptr<T>();
  const T* feature = features.const_data_ptr<T>();
  const int64_t* index = indices.const_data_ptr<int64_t>();
  const T* weight = weights.const_data_ptr<T>();
  T* grad_feature = grad_features.mutable_data_ptr<T>();
  T* grad_weight = grad_weights.mutable_data_ptr<T>();
  const int64_t work = grain(s.neighbors * s.channels);
  torch::stable::parallel_for(0, s.batch * s.queries, work, [&](int64_t begin, int64_t end) {
    weight_gradients(s, grad, feature, index, begin, end, grad_weight);
  });
  const int64_t entries = s.queries * s.neighbors;
  const auto lists = invert(index, nullptr, s.batch, entries, s.tokens);
  for (int64_t n = 0; n < s.batch; ++n) {
    torch::stable::parallel_for(0, s.tokens, work, [&](int64_t begin, int64_t end) {
      feature_gradients(
          s, grad + n * s.queries * s.channels, weight + n * entries, lists[n], begin, end,
          grad_feature + n * s.tokens * s.channels);
    });
  }
}

Tensor checked_indices(const PointGatherSizes& s, const Tensor& indices) {
  const Tensor packed = torch::stable::contiguous(indices);
  check_index_range(
      "indices", packed.const_data_ptr<int64_t>(), s.batch * s.queries * s.neighbors, 0, s.tokens);
  return packed;
}

// The arguments as the kernels read them.
struct Prepared {
  Tensor features, indices, weights;

  Prepared(const PointGatherArguments& a, const PointGatherSizes& s)
      : features(in_precision(a.features, a.weights.scalar_type())),
        indices(checked_indices(s, a.indices)),
        weights(torch::stable::contiguous(a.weights)) {}
};

Tensor run_forward(const PointGatherArguments& a, const PointGatherSizes& s) {
  const Prepared p(a, s);
  const ScalarType precision = p.weights.scalar_type();
  Tensor output = torch::stable::new_empty(a.features, s.output(), precision);
  for_precision(precision, [&](auto zero) {
    forward<decltype(zero)>(s, p.features, p.indices, p.weights, output);
  });
  return torch::stable::to(output, a.features.scalar_type());
}

PointGatherGradients run_backward(
    const Tensor& grad_output, const PointGatherArguments& a, const PointGatherSizes& s) {
  const Prepared p(a, s);
  const ScalarType precision = p.weights.scalar_type();
  const Tensor grad = in_precision(grad_output, precision);
  Tensor grad_features = torch::stable::new_empty(a.features, a.features.sizes(), precision);
  Tensor grad_weights = torch::stable::new_empty(a.weights, a.weights.sizes());
  for_precision(precision, [&](auto zero) {
    backward<decltype(zero)>(
        s, grad, p.features, p.indices, p.weights, grad_features, grad_weights);
  });
  return {torch::stable::to(grad_features, a.features.scalar_type()), grad_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("point_gather", TORCH_BOX(&PointGather::forward<run_forward>));
  library.impl("point_gather_backward", TORCH_BOX(&PointGather::backward<run_backward>));
}

}  // namespace segcore
