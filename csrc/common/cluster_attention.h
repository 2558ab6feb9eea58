// The arguments of attention over clusters, checked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "cluster_attention_sizes.h"
#include "offset_features.h"
#include "operator.h"
#include "rows.h"

namespace segcore {

struct __attribute__((visibility("hidden"))) ClusterAttentionArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t,
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, double,
      const std::optional<Tensor>&, const std::optional<Tensor>&>;

  const Tensor &q, &k, &v, &positions, &clusters;
  int64_t cluster_size;
  const Tensor &pos_weight, &pos_bias, &blank_k, &blank_v;
  double scale;
  const std::optional<Tensor>&indices, &offsets;  // for the backward
};

inline ClusterAttentionSizes check_cluster_attention(const ClusterAttentionArguments& a) {
  using torch::headeronly::ScalarType;
  check_dim("q", a.q, 4);
  check_dim("clusters", a.clusters, 3);
  STD_TORCH_CHECK(
      a.cluster_size >= 1, "cluster_size: expected at least 1, got ", a.cluster_size);
  // A cluster of more tokens than there are is one of all tokens.
  const int64_t cluster_size = std::min(a.cluster_size, std::max<int64_t>(a.q.size(1), 1));
  const ClusterAttentionSizes s = {
      a.q.size(0), a.q.size(1), a.q.size(2), a.q.size(3), a.clusters.size(2), cluster_size};
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

// The tokens that see each cluster, in compressed rows: indices (batch, tokens * clusters_per_token) are
// tokens, offsets (batch, clusters + 1) bound those of each cluster.
struct __attribute__((visibility("hidden"))) InverseClusters {
  torch::stable::Tensor indices, offsets;

  InverseClusters(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s)
      : indices(checked(a.indices, "indices", torch::headeronly::ScalarType::Int, a)),
        offsets(checked(a.offsets, "offsets", torch::headeronly::ScalarType::Long, a)) {
    check_sizes("indices", indices, {s.batch, s.tokens * s.clusters_per_token});
    check_sizes("offsets", offsets, {s.batch, s.clusters() + 1});
  }

 private:
  static torch::stable::Tensor checked(
      const std::optional<torch::stable::Tensor>& tensor,
      const char* name,
      torch::headeronly::ScalarType type,
      const ClusterAttentionArguments& a) {
    STD_TORCH_CHECK(tensor.has_value(), name, ": expected for the backward");
    check_type(name, *tensor, type);
    check_same_device(name, *tensor, a.q);
    return torch::stable::contiguous(*tensor);
  }
};

using ClusterAttention = Operator<ClusterAttentionArguments, check_cluster_attention>;

// Gradients of q, k, v, pos_weight, pos_bias, blank_k, blank_v.
using ClusterAttentionGradients = std::tuple<
    torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor,
    torch::stable::Tensor, torch::stable::Tensor, torch::stable::Tensor>;

}  // namespace segcore
