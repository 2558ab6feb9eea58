// Sizes of attention over clusters.
#pragma once

#include <array>
#include <cstdint>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

struct ClusterAttentionSizes {
  int64_t batch, tokens, heads, channels;    // q, k, v (batch, tokens, heads, channels)
  int64_t clusters_per_token, cluster_size;  // clusters (batch, tokens, clusters_per_token)

  C10_HOST_DEVICE int64_t clusters() const { return (tokens + cluster_size - 1) / cluster_size; }
  std::array<int64_t, 3> output() const { return {batch, tokens, heads * channels}; }
};

}  // namespace segcore
