#include <algorithm>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "gelu_lanes.h"
#include "grain.h"
#include "lanes.h"
#include "neighborhood_merge.h"

namespace segcore::neighborhood_merge {
namespace {

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

template <typename T>
void forward(const Inputs<T>& in, T* output) {
  const NeighborhoodMergeSizes& s = in.sizes;
  torch::stable::parallel_for(
      0, s.batch * s.queries, grain(work(s)), [&](int64_t begin, int64_t end) {
        MemberList<T> list(s.members);
        merge_queries(in, list, begin, end, output);
      });
}

Tensor run(const NeighborhoodMergeArguments& a, const NeighborhoodMergeSizes& s) {
  const Prepared prepared(a, s);
  const ScalarType precision = a.positions.scalar_type();
  Tensor output = torch::stable::new_empty(a.features, s.output(), precision);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    forward(prepared.inputs<T>(), output.mutable_data_ptr<T>());
  });
  return torch::stable::to(output, a.features.scalar_type());
}

}  // namespace
}  // namespace segcore::neighborhood_merge

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  using namespace segcore;
  library.impl(
      "neighborhood_merge", TORCH_BOX(&NeighborhoodMerge::forward<neighborhood_merge::run>));
}
