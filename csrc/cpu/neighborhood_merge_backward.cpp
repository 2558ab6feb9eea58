// The backward computes the weight net once more, query by query, for the gradients of its parameters,
// and keeps its results for the sums over the queries that see a token. Every sum has one order whatever
// the number of threads.
#include <algorithm>
#include <iterator>
#include <numeric>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "gelu_lanes.h"
#include "grain.h"
#include "in_precision.h"
#include "inverse_lists.h"
#include "neighborhood_merge.h"
#include "weighted_sum.h"

namespace segcore::neighborhood_merge {
namespace {

// Queries whose gradients of the parameters are summed by themselves, so that the order of the sums
// does not depend on the number of threads.
constexpr int64_t kQueriesPerSum = 64;

// Sums of the gradients of the parameters, lane by lane.
template <typename T>
struct ParameterSums {
  T matrix[kMergeWeights][kOffsetFeatures][kChunk] = {};
  T bias[kMergeWeights][kChunk] = {}, scale[kMergeWeights][kChunk] = {};
  T shift[kMergeWeights][kChunk] = {};

  // In the order of the parameters: matrix, bias, scale, shift.
  void write(double* totals) const {
    for (const auto& row : matrix) totals = write_rows(row, totals);
    for (const auto* rows : {&bias, &scale, &shift}) totals = write_rows(*rows, totals);
  }

 private:
  template <size_t kRows>
  static double* write_rows(const T (&rows)[kRows][kChunk], double* totals) {
    for (const auto& lanes : rows) {
      *totals++ = std::accumulate(std::begin(lanes), std::end(lanes), 0.0);
    }
    return totals;
  }
};

// Results of the weight net, for each entry of the lists of members, that the sums over the queries of
// each token need.
template <typename T>
struct MemberBuffers {
  T* weights;          // (entries, kMergeWeights)
  T* grad_importance;  // (entries)
};

// dots[r][i] = <grad_output[r], features of member i>, for the members of a chunk.
template <typename T>
SEGCORE_INLINE void dot_chunk(
    const T* grad,
    const T* features,
    int64_t channels,
    const int64_t* tokens,
    int64_t count,
    T (&dots)[kMergeWeights][kChunk]) {
  for (int64_t i = 0; i < count; ++i) {
    const T* row = features + tokens[i] * channels;
    T a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
    for (int64_t j = 0; j < channels; ++j) {
      a += grad[j] * row[j];
      b += grad[channels + j] * row[j];
      c += grad[2 * channels + j] * row[j];
      d += grad[3 * channels + j] * row[j];
    }
    dots[0][i] = a;
    dots[1][i] = b;
    dots[2][i] = c;
    dots[3][i] = d;
  }
}

// Gradients of the parameters, from those of the output of the layer norm.
template <typename T>
SEGCORE_INLINE void add_gradients(
    const MergeParameters<T>& net,
    const Hidden<T>& hidden,
    const T (&grad_output)[kMergeWeights][kChunk],
    ParameterSums<T>& sums) {
  T linear[kMergeWeights][kChunk];
#pragma omp simd
  for (int64_t i = 0; i < kChunk; ++i) {
    T grad[kMergeWeights], grad_linear[kMergeWeights];
    SEGCORE_UNROLL
    for (int r = 0; r < kMergeWeights; ++r) grad[r] = grad_output[r][i];
    merge_hidden_backward(net, hidden.member(i), grad, grad_linear);
    SEGCORE_UNROLL
    for (int r = 0; r < kMergeWeights; ++r) linear[r][i] = grad_linear[r];
  }
  for (int r = 0; r < kMergeWeights; ++r) {
#pragma omp simd
    for (int64_t i = 0; i < kChunk; ++i) {
      sums.scale[r][i] += grad_output[r][i] * hidden.normalized[r][i];
      sums.shift[r][i] += grad_output[r][i];
      sums.bias[r][i] += linear[r][i];
    }
    for (int f = 0; f < kOffsetFeatures; ++f) {
#pragma omp simd
      for (int64_t i = 0; i < kChunk; ++i) {
        sums.matrix[r][f][i] += linear[r][i] * hidden.features[f][i];
      }
    }
  }
}

// Weights and gradients of the weight net for the queries [begin, end).
template <typename T>
SEGCORE_TARGET_CLONES void net_gradients(
    const Inputs<T>& in,
    const T* grad_output,
    MemberList<T>& list,
    int64_t begin,
    int64_t end,
    ParameterSums<T>& sums,
    MemberBuffers<T> buffers) {
  const int64_t channels = in.sizes.channels;
  for (int64_t query = begin; query < end; ++query) {
    collect(in, query, list);
    const T* grad = grad_output + query * kMergeWeights * channels;
    for (int64_t first = 0; first < list.count; first += kChunk) {
      const int64_t count = std::min(kChunk, list.count - first);
      const Chunk<T> chunk = make_chunk(in, query, &list.token[first], count);
      T dots[kMergeWeights][kChunk] = {}, weights[kMergeWeights][kChunk], factor[kChunk] = {};
      dot_chunk(grad, in.features, channels, &list.token[first], count, dots);
      Hidden<T> hidden;
      compute_hidden(in.net, chunk, hidden);
      for (int r = 0; r < kMergeWeights; ++r) {
#pragma omp simd
        for (int64_t i = 0; i < kChunk; ++i) {
          const Gelu<T> activation = gelu_lane(hidden.output[r][i]);
          weights[r][i] = activation.value * chunk.importance[i];
          factor[i] += activation.value * dots[r][i];
          dots[r][i] *= chunk.importance[i] * activation.slope;
        }
      }
      add_gradients(in.net, hidden, dots, sums);
      for (int64_t i = 0; i < count; ++i) {
        const int64_t entry = list.entry[first + i];
        buffers.grad_importance[entry] = factor[i];
        for (int r = 0; r < kMergeWeights; ++r) {
          buffers.weights[entry * kMergeWeights + r] = weights[r][i];
        }
      }
    }
  }
}

// Gradients of the features and the importance of the tokens [begin, end) of one image.
template <typename T>
SEGCORE_TARGET_CLONES void token_gradients(
    const NeighborhoodMergeSizes& s,
    const T* grad_output,
    MemberBuffers<T> buffers,
    const InverseLists& lists,
    int64_t begin,
    int64_t end,
    T* grad_features,
    T* grad_importance) {
  std::vector<int64_t> row;
  std::vector<T> weight;
  for (int64_t j = begin; j < end; ++j) {
    row.clear();
    weight.clear();
    T importance = 0;
    for (int64_t i = 0; i < lists.count(j); ++i) {
      const int64_t entry = lists.entries_of(j)[i];
      importance += buffers.grad_importance[entry];
      for (int r = 0; r < kMergeWeights; ++r) {
        row.push_back(entry / s.members * kMergeWeights + r);
        weight.push_back(buffers.weights[entry * kMergeWeights + r]);
      }
    }
    weighted_sum(
        grad_output, s.channels, row.data(), weight.data(), static_cast<int64_t>(row.size()),
        grad_features + j * s.channels);
    if (grad_importance != nullptr) grad_importance[j] = importance;
  }
}

template <typename T>
struct Gradients {
  T *features, *importance, *linear_weight, *linear_bias, *norm_weight, *norm_bias;
};

// Gradients of the weight net; fills the buffers.
template <typename T>
void net_backward(
    const Inputs<T>& in, const T* grad_output, MemberBuffers<T> buffers, const Gradients<T>& grad) {
  constexpr int kCount = MergeParameters<T>::kCount;
  const NeighborhoodMergeSizes& s = in.sizes;
  const int64_t queries = s.batch * s.queries;
  const int64_t parts = (queries + kQueriesPerSum - 1) / kQueriesPerSum;
  std::vector<double> part_sums(parts * kCount);
  torch::stable::parallel_for(
      0, parts, grain(work(s) * kQueriesPerSum), [&](int64_t begin, int64_t end) {
        MemberList<T> list(s.members);
        for (int64_t part = begin; part < end; ++part) {
          ParameterSums<T> sums;
          const int64_t first = part * kQueriesPerSum;
          const int64_t last = std::min(first + kQueriesPerSum, queries);
          net_gradients(in, grad_output, list, first, last, sums, buffers);
          sums.write(&part_sums[part * kCount]);
        }
      });
  double totals[kCount] = {};
  for (int64_t i = 0; i < parts * kCount; ++i) totals[i % kCount] += part_sums[i];
  const double* total = totals;
  const auto write = [&total](T* parameter, int count) {
    for (int i = 0; i < count; ++i) parameter[i] = static_cast<T>(*total++);
  };
  write(grad.linear_weight, kMergeWeights * kOffsetFeatures);
  write(grad.linear_bias, kMergeWeights);
  write(grad.norm_weight, kMergeWeights);
  write(grad.norm_bias, kMergeWeights);
}

template <typename T>
void backward(const Inputs<T>& in, const T* grad_output, const Gradients<T>& grad) {
  const NeighborhoodMergeSizes& s = in.sizes;
  const int64_t image_entries = s.queries * s.members, entries = s.batch * image_entries;
  std::vector<T> weights(entries * kMergeWeights), grad_importance(entries);
  const MemberBuffers<T> buffers = {weights.data(), grad_importance.data()};
  net_backward(in, grad_output, buffers, grad);
  const auto lists = invert(in.members, in.mask, s.batch, image_entries, s.tokens);
  for (int64_t n = 0; n < s.batch; ++n) {
    const int64_t first_entry = n * image_entries, first_token = n * s.tokens;
    torch::stable::parallel_for(0, s.tokens, grain(work(s)), [&](int64_t begin, int64_t end) {
      token_gradients(
          s, grad_output + n * s.queries * kMergeWeights * s.channels,
          {buffers.weights + first_entry * kMergeWeights,
           buffers.grad_importance + first_entry},
          lists[n], begin, end, grad.features + first_token * s.channels,
          grad.importance == nullptr ? nullptr : grad.importance + first_token);
    });
  }
}

NeighborhoodMergeGradients run(
    const Tensor& grad_output,
    const NeighborhoodMergeArguments& a,
    const NeighborhoodMergeSizes& s) {
  const Prepared prepared(a, s);
  const ScalarType precision = a.positions.scalar_type();
  const Tensor grad = in_precision(grad_output, precision);
  const auto empty = [&](const Tensor& argument) {
    return torch::stable::new_empty(argument, argument.sizes(), precision);
  };
  Tensor grad_features = empty(a.features);
  Tensor grad_importance =
      a.importance ? empty(*a.importance) : torch::stable::new_empty(a.features, {0});
  Tensor grad_linear_weight = empty(a.linear_weight), grad_linear_bias = empty(a.linear_bias);
  Tensor grad_norm_weight = empty(a.norm_weight), grad_norm_bias = empty(a.norm_bias);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    backward<T>(
        prepared.inputs<T>(), grad.const_data_ptr<T>(),
        {grad_features.mutable_data_ptr<T>(),
         a.importance ? grad_importance.mutable_data_ptr<T>() : nullptr,
         grad_linear_weight.mutable_data_ptr<T>(), grad_linear_bias.mutable_data_ptr<T>(),
         grad_norm_weight.mutable_data_ptr<T>(), grad_norm_bias.mutable_data_ptr<T>()});
  });
  return {torch::stable::to(grad_features, a.features.scalar_type()),
          grad_importance,
          grad_linear_weight,
          grad_linear_bias,
          grad_norm_weight,
          grad_norm_bias};
}

}  // namespace
}  // namespace segcore::neighborhood_merge

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  using namespace segcore;
  library.impl(
      "neighborhood_merge_backward",
      TORCH_BOX(&NeighborhoodMerge::backward<neighborhood_merge::run>));
}
