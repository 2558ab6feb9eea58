// What the CPU and the CUDA kernels of attention over clusters share: sizes, read from the arguments
// and checked, so that no kernel can leave its tensors. The messages for users are in
// projects/segcore/ops; these guard calls of torch.ops.segcore.
#pragma once

#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "checks.h"
#include "cluster_attention_sizes.h"
#include "rows.h"

namespace segcore {

// The arguments of the operator, in the order of its schema.
struct __attribute__((visibility("hidden"))) ClusterAttentionArguments {
  const torch::stable::Tensor &q, &k, &v, &positions, &clusters;
  int64_t cluster_size;
  const torch::stable::Tensor &pos_weight, &pos_bias, &blank_k, &blank_v;
  double scale;
};

inline ClusterAttentionSizes check_cluster_attention(const ClusterAttentionArguments& a) {
  using torch::headeronly::ScalarType;
  check_dim("q", a.q, 4);
  check_dim("clusters", a.clusters, 3);
  STD_TORCH_CHECK(
      a.cluster_size >= 1, "cluster_size: expected at least 1, got ", a.cluster_size);
  const ClusterAttentionSizes s = {
      a.q.size(0), a.q.size(1), a.q.size(2), a.q.size(3), a.clusters.size(2), a.cluster_size};
  STD_TORCH_CHECK(s.tokens <= INT32_MAX, "q: expected at most ", INT32_MAX, " tokens an image");
  for (const auto& [name, tensor] : {std::pair("k", &a.k), std::pair("v", &a.v)}) {
    check_sizes(name, *tensor, {s.batch, s.tokens, s.heads, s.channels});
    check_type(name, *tensor, a.q.scalar_type());
    check_same_device(name, *tensor, a.q);
  }
  check_sizes("clusters", a.clusters, {s.batch, s.tokens, s.clusters_per_token});
  check_type("clusters", a.clusters, ScalarType::Int);
  check_same_device("clusters", a.clusters, a.q);
  check_sizes("positions", a.positions, {s.batch, s.tokens, 2});
  check_sizes("pos_weight", a.pos_weight, {s.heads, kOffsetFeatures});
  check_sizes("pos_bias", a.pos_bias, {s.heads});
  check_sizes("blank_k", a.blank_k, {s.heads * s.channels});
  check_sizes("blank_v", a.blank_v, {s.heads * s.channels});
  const ScalarType precision = accumulation_type(a.q.scalar_type());
  for (const auto& [name, tensor] :
       {std::pair("positions", &a.positions), std::pair("pos_weight", &a.pos_weight),
        std::pair("pos_bias", &a.pos_bias), std::pair("blank_k", &a.blank_k),
        std::pair("blank_v", &a.blank_v)}) {
    check_type(name, *tensor, precision);
    check_same_device(name, *tensor, a.q);
  }
  return s;
}

// For the backward: users (batch, tokens * clusters_per_token) are the tokens that see each cluster,
// borders (batch, clusters + 1) where those of each cluster begin and end.
inline void check_users(
    const ClusterAttentionSizes& s,
    const torch::stable::Tensor& users,
    const torch::stable::Tensor& borders,
    const torch::stable::Tensor& q) {
  using torch::headeronly::ScalarType;
  check_sizes("users", users, {s.batch, s.tokens * s.clusters_per_token});
  check_type("users", users, ScalarType::Int);
  check_sizes("borders", borders, {s.batch, s.clusters() + 1});
  check_type("borders", borders, ScalarType::Long);
  check_same_device("users", users, q);
  check_same_device("borders", borders, q);
}

// The operator as a device registers it: checks, and calls kRun with the arguments and sizes.
template <auto kRun>
torch::stable::Tensor cluster_attention_operator(
    const torch::stable::Tensor& q,
    const torch::stable::Tensor& k,
    const torch::stable::Tensor& v,
    const torch::stable::Tensor& positions,
    const torch::stable::Tensor& clusters,
    int64_t cluster_size,
    const torch::stable::Tensor& pos_weight,
    const torch::stable::Tensor& pos_bias,
    const torch::stable::Tensor& blank_k,
    const torch::stable::Tensor& blank_v,
    double scale,
    const std::optional<torch::stable::Tensor>&,
    const std::optional<torch::stable::Tensor>&) {
  const ClusterAttentionArguments arguments = {
      q, k, v, positions, clusters, cluster_size, pos_weight, pos_bias, blank_k, blank_v, scale};
  return kRun(arguments, check_cluster_attention(arguments));
}

// Of q, k, v, pos_weight, pos_bias, blank_k, blank_v.
using ClusterAttentionGradients = std::tuple<
    torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
    torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

template <auto kRun>
ClusterAttentionGradients cluster_attention_backward_operator(
    const torch::stable::Tensor& grad_output,
    const torch::stable::Tensor& q,
    const torch::stable::Tensor& k,
    const torch::stable::Tensor& v,
    const torch::stable::Tensor& positions,
    const torch::stable::Tensor& clusters,
    int64_t cluster_size,
    const torch::stable::Tensor& pos_weight,
    const torch::stable::Tensor& pos_bias,
    const torch::stable::Tensor& blank_k,
    const torch::stable::Tensor& blank_v,
    double scale,
    const torch::stable::Tensor& users,
    const torch::stable::Tensor& borders) {
  const ClusterAttentionArguments arguments = {
      q, k, v, positions, clusters, cluster_size, pos_weight, pos_bias, blank_k, blank_v, scale};
  const ClusterAttentionSizes s = check_cluster_attention(arguments);
  check_grad_output(grad_output, {s.batch, s.tokens, s.heads * s.channels}, q);
  check_users(s, users, borders, q);
  return kRun(
      grad_output, arguments, torch::stable::contiguous(users), torch::stable::contiguous(borders),
      s);
}

// The tensor itself if its last dimension lies side by side.
inline torch::stable::Tensor with_rows(const torch::stable::Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool rows = tensor.stride(last) == 1 || tensor.size(last) <= 1;
  return rows ? tensor : torch::stable::contiguous(tensor);
}

// Rows of a tensor (batch, tokens, heads, channels), or (batch, tokens, heads * channels).
template <typename T>
Rows<const T> rows_of(const torch::stable::Tensor& tensor, int64_t head_stride) {
  return {
      static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1),
      head_stride};
}

}  // namespace segcore
