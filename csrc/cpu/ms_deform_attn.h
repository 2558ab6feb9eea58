// Samples of multi-scale deformable attention in the precision of the sums, whatever they come from.
#pragma once

#include <cstdint>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../common/ms_deform_attn_sizes.h"
#include "in_precision.h"

namespace segcore::ms_deform_attn {

template <typename T>
struct Inputs {
  MsDeformAttnSizes sizes;
  const Level* levels;
  const T* value;      // (batch, heads, tokens, channels): neighboring cells of a head adjoin
  const T* locations;  // (batch, queries, heads, levels, points, 2)
  const T* weights;    // (batch, queries, heads, levels, points)

  // First element of a head in value and its gradient.
  int64_t head_offset(int64_t n, int64_t m) const {
    return (n * sizes.heads + m) * sizes.tokens * sizes.channels;
  }
  // Index of a (batch, query, head) triple, in the order of the output.
  int64_t triple(int64_t n, int64_t q, int64_t m) const {
    return (n * sizes.queries + q) * sizes.heads + m;
  }
  int64_t first_sample(int64_t triple, int64_t level) const {
    return (triple * sizes.levels + level) * sizes.points;
  }
};

template <typename T>
struct Gradients {
  T* value;
  T* locations;
  T* weights;
};

// Queries that are sampled head by head, so that what neighboring ones read of a head stays in the
// first-level cache.
constexpr int64_t kQueriesOfBlock = 32;

// Output of the queries [begin, end) of the batch, at best kQueriesOfBlock, whose locations and weights
// are given: those of `in` are not read.
template <typename T>
void sum_samples(
    const Inputs<T>& in,
    int64_t begin,
    int64_t end,
    const T* locations,
    const T* weights,
    T* output);

// Adds to gradients that are zero, by all threads.
template <typename T>
void compute_gradients(const Inputs<T>& in, const T* grad_output, const Gradients<T>& grad);

// One copy of the value pays: every cell is read many times, and cells of one head that lie a power
// of two apart would compete for the same few cache lines. Half types are converted on the way.
inline torch::stable::Tensor head_major(
    const torch::stable::Tensor& value, torch::headeronly::ScalarType type) {
  return in_precision(torch::stable::transpose(value, 1, 2), type);
}

}  // namespace segcore::ms_deform_attn
