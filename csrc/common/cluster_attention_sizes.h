// Sizes of attention over clusters.
#pragma once

#include <cstdint>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

// Features of an offset: dx, dy, distance, sine, cosine.
constexpr int64_t kOffsetFeatures = 5;

struct ClusterAttentionSizes {
  int64_t batch, tokens, heads, channels;         // q, k, v (batch, tokens, heads, channels)
  int64_t clusters_per_token, cluster_size;       // clusters (batch, tokens, clusters_per_token)

  C10_HOST_DEVICE int64_t clusters() const { return (tokens + cluster_size - 1) / cluster_size; }
};

}  // namespace segcore
