// Kernels of balanced clustering, a token or a cluster a thread. To be included before all else: the keys
// have to be exact.
#pragma once

#include "../common/patches.h"

#include "warp.cuh"

namespace segcore::balanced_clusters {

__device__ inline PlaceInPatch place_of(const Patches& patches, const float* positions, int64_t i) {
  return place_in_patch(patches, positions[2 * i], positions[2 * i + 1]);
}

static __global__ void ratios_kernel(
    const Patches patches, const float* positions, int64_t tokens, float* ratios) {
  const int64_t i = thread_index();
  if (i < tokens) ratios[i] = place_of(patches, positions, i).ratio;
}

// largest_ratios: of each image, or one of the batch.
static __global__ void patch_keys_kernel(
    const ClusteringSizes s,
    const Patches patches,
    const float* positions,
    const float* largest_ratios,
    bool per_image,
    float* keys) {
  const int64_t i = thread_index();
  if (i >= s.batch * s.tokens) return;
  const float largest_ratio = largest_ratios[per_image ? i / s.tokens : 0];
  keys[i] = sort_key(place_of(patches, positions, i), largest_ratio);
}

// Keys of a single patch; signed numbers in the order of the unsigned ones.
static __global__ void x_then_y_keys_kernel(
    const float* positions, int64_t tokens, int64_t* keys) {
  const int64_t i = thread_index();
  if (i >= tokens) return;
  const uint64_t key = x_then_y_key(positions[2 * i], positions[2 * i + 1]);
  keys[i] = static_cast<int64_t>(key ^ (uint64_t(1) << 63));
}

static __global__ void centers_kernel(
    const ClusteringSizes s, const float* positions, const int64_t* order, float* centers) {
  const int64_t i = thread_index();
  if (i >= s.batch * s.clusters()) return;
  const int64_t first_token = i / s.clusters() * s.tokens;
  mean_position(
      s, positions + 2 * first_token, order + first_token, i % s.clusters(), centers + 2 * i);
}

}  // namespace segcore::balanced_clusters
