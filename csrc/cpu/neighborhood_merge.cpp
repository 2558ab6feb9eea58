#include "../common/neighborhood_merge.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "../common/offset_features.h"
#include "gelu_lanes.h"
#include "grain.h"
#include "in_precision.h"
#include "index_range.h"
#include "inverse_lists.h"
#include "weighted_sum.h"

namespace segcore {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Members whose weights are computed at once.
constexpr int64_t kChunk = 16;

// Queries whose gradients of the parameters are summed by themselves, so that the order of the sums
// does not depend on the number of threads.
constexpr int64_t kQueriesPerSum = 64;

template <typename T>
struct Inputs {
  NeighborhoodMergeSizes sizes;
  MergeParameters<T> net;
  const T* features;       // (batch, tokens, channels)
  const T* positions;      // (batch, tokens, 2)
  const T* centers;        // (batch, queries, 2)
  const int64_t* members;  // (batch, queries, members)
  const bool* mask;        // (batch, queries, members) or null
  const T* importance;     // (batch, tokens) or null

  int64_t first_token(int64_t query) const { return query / sizes.queries * sizes.tokens; }
};

// Members of one query that take part.
template <typename T>
struct MemberList {
  int64_t count = 0;
  std::vector<int64_t> entry;  // in the lists of members of all queries
  std::vector<int64_t> token;  // of the whole batch
  std::vector<T> weights;      // (kMergeWeights, stride)
  int64_t stride;

  explicit MemberList(int64_t members)
      : entry(members), token(members), stride((members + kChunk - 1) / kChunk * kChunk) {
    weights.resize(kMergeWeights * stride);
  }
};

template <typename T>
SEGCORE_INLINE void collect(const Inputs<T>& in, int64_t query, MemberList<T>& list) {
  const int64_t members = in.sizes.members, first_token = in.first_token(query);
  list.count = 0;
  for (int64_t e = query * members; e < (query + 1) * members; ++e) {
    if (in.mask != nullptr && !in.mask[e]) continue;
    list.entry[list.count] = e;
    list.token[list.count++] = first_token + in.members[e];
  }
}

// Offsets of the members of a chunk from a query, and their importance; 0 beyond the end.
template <typename T>
struct Chunk {
  T x[kChunk] = {}, y[kChunk] = {}, importance[kChunk] = {};
};

template <typename T>
SEGCORE_INLINE Chunk<T> make_chunk(
    const Inputs<T>& in, int64_t query, const int64_t* tokens, int64_t count) {
  Chunk<T> chunk;
  const T x = in.centers[2 * query], y = in.centers[2 * query + 1];
  for (int64_t i = 0; i < count; ++i) {
    chunk.x[i] = in.positions[2 * tokens[i]] - x;
    chunk.y[i] = in.positions[2 * tokens[i] + 1] - y;
    chunk.importance[i] = in.importance == nullptr ? T(1) : in.importance[tokens[i]];
  }
  return chunk;
}

// The weight net for the members of a chunk, before GELU.
template <typename T>
struct Hidden {
  T features[kOffsetFeatures][kChunk];
  T normalized[kMergeWeights][kChunk], output[kMergeWeights][kChunk], inverse_deviation[kChunk];

  SEGCORE_INLINE MergeHidden<T> member(int64_t i) const {
    MergeHidden<T> hidden;
    hidden.inverse_deviation = inverse_deviation[i];
    SEGCORE_UNROLL
    for (int r = 0; r < kMergeWeights; ++r) hidden.normalized[r] = normalized[r][i];
    return hidden;
  }
};

template <typename T>
SEGCORE_INLINE void compute_hidden(
    const MergeParameters<T>& net, const Chunk<T>& chunk, Hidden<T>& hidden) {
#pragma omp simd
  for (int64_t i = 0; i < kChunk; ++i) {
    const OffsetFeatures<T> f = offset_features(chunk.x[i], chunk.y[i]);
    hidden.features[0][i] = f.x;
    hidden.features[1][i] = f.y;
    hidden.features[2][i] = f.distance;
    hidden.features[3][i] = f.sine;
    hidden.features[4][i] = f.cosine;
  }
#pragma omp simd
  for (int64_t i = 0; i < kChunk; ++i) {
    T features[kOffsetFeatures];
    SEGCORE_UNROLL
    for (int f = 0; f < kOffsetFeatures; ++f) features[f] = hidden.features[f][i];
    const MergeHidden<T> member = merge_hidden(net, features);
    hidden.inverse_deviation[i] = member.inverse_deviation;
    SEGCORE_UNROLL
    for (int r = 0; r < kMergeWeights; ++r) {
      hidden.normalized[r][i] = member.normalized[r];
      hidden.output[r][i] = member.output[r];
    }
  }
}

// The weights of all members of a query.
template <typename T>
SEGCORE_INLINE void compute_weights(const Inputs<T>& in, int64_t query, MemberList<T>& list) {
  for (int64_t first = 0; first < list.count; first += kChunk) {
    const int64_t count = std::min(kChunk, list.count - first);
    const Chunk<T> chunk = make_chunk(in, query, &list.token[first], count);
    Hidden<T> hidden;
    compute_hidden(in.net, chunk, hidden);
    for (int r = 0; r < kMergeWeights; ++r) {
      T* weights = list.weights.data() + r * list.stride + first;
#pragma omp simd
      for (int64_t i = 0; i < kChunk; ++i) {
        weights[i] = gelu_lane(hidden.output[r][i]).value * chunk.importance[i];
      }
    }
  }
}

// output[r * channels + c] = weights[r] * features[c], summed over the members, for kVectors * kLanes
// channels.
template <int kVectors, typename T>
SEGCORE_INLINE void merge_block(
    const MemberList<T>& list, const T* features, int64_t channels, T* output) {
  Lanes<T> sum[kMergeWeights][kVectors] = {};
  for (int64_t i = 0; i < list.count; ++i) {
    const T* row = features + list.token[i] * channels;
    for (int r = 0; r < kMergeWeights; ++r) {
      const T weight = list.weights[r * list.stride + i];
      for (int j = 0; j < kVectors; ++j) sum[r][j] += weight * lanes(row + j * kLanes);
    }
  }
  for (int r = 0; r < kMergeWeights; ++r) {
    for (int j = 0; j < kVectors; ++j) lanes(output + r * channels + j * kLanes) = sum[r][j];
  }
}

// The same for all channels.
template <typename T>
SEGCORE_INLINE void merge(
    const MemberList<T>& list, const T* features, int64_t channels, T* output) {
  int64_t c = 0;
  for (; c + 2 * kLanes <= channels; c += 2 * kLanes) {
    merge_block<2>(list, features + c, channels, output + c);
  }
  for (; c + kLanes <= channels; c += kLanes) {
    merge_block<1>(list, features + c, channels, output + c);
  }
  for (; c < channels; ++c) {
    for (int r = 0; r < kMergeWeights; ++r) {
      T sum = 0;
      for (int64_t i = 0; i < list.count; ++i) {
        sum += list.weights[r * list.stride + i] * features[list.token[i] * channels + c];
      }
      output[r * channels + c] = sum;
    }
  }
}

// Output of the queries [begin, end) of the whole batch.
template <typename T>
SEGCORE_TARGET_CLONES void merge_queries(
    const Inputs<T>& in, MemberList<T>& list, int64_t begin, int64_t end, T* output) {
  const int64_t channels = in.sizes.channels;
  for (int64_t query = begin; query < end; ++query) {
    collect(in, query, list);
    compute_weights(in, query, list);
    merge(list, in.features, channels, output + query * kMergeWeights * channels);
  }
}

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

// The arguments as the kernels read them.
struct Prepared : NeighborhoodMergeTensors {
  Prepared(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s)
      : NeighborhoodMergeTensors(a, s, a.positions.scalar_type()) {
    check_index_range(
        "members", members.const_data_ptr<int64_t>(), s.batch * s.queries * s.members, 0, s.tokens);
  }

  template <typename T>
  Inputs<T> inputs() const {
    Inputs<T> in = {};
    in.sizes = sizes;
    const T* row = linear_weight.const_data_ptr<T>();
    for (auto& weights : in.net.matrix) {
      std::copy_n(row, kOffsetFeatures, weights);
      row += kOffsetFeatures;
    }
    std::copy_n(linear_bias.const_data_ptr<T>(), kMergeWeights, in.net.bias);
    std::copy_n(norm_weight.const_data_ptr<T>(), kMergeWeights, in.net.scale);
    std::copy_n(norm_bias.const_data_ptr<T>(), kMergeWeights, in.net.shift);
    in.features = features.const_data_ptr<T>();
    in.positions = positions.const_data_ptr<T>();
    in.centers = centers.const_data_ptr<T>();
    in.members = members.const_data_ptr<int64_t>();
    in.mask = mask ? mask->const_data_ptr<bool>() : nullptr;
    in.importance = importance ? importance->const_data_ptr<T>() : nullptr;
    return in;
  }
};

// Multiply-adds of one query.
int64_t work(const NeighborhoodMergeSizes& s) {
  return s.members * kMergeWeights * (s.channels + 16);
}

template <typename T>
void forward(const Inputs<T>& in, T* output) {
  const NeighborhoodMergeSizes& s = in.sizes;
  torch::stable::parallel_for(
      0, s.batch * s.queries, grain(work(s)), [&](int64_t begin, int64_t end) {
        MemberList<T> list(s.members);
        merge_queries(in, list, begin, end, output);
      });
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

Tensor run_forward(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s) {
  const Prepared prepared(a, s);
  const ScalarType precision = a.positions.scalar_type();
  Tensor output = torch::stable::new_empty(a.features, s.output(), precision);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    forward(prepared.inputs<T>(), output.mutable_data_ptr<T>());
  });
  return torch::stable::to(output, a.features.scalar_type());
}

NeighborhoodMergeGradients run_backward(
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

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("neighborhood_merge", TORCH_BOX(&NeighborhoodMerge::forward<run_forward>));
  library.impl(
      "neighborhood_merge_backward", TORCH_BOX(&NeighborhoodMerge::backward<run_backward>));
}

}  // namespace segcore
