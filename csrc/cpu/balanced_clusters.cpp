#include "../common/balanced_clusters.h"

#include <algorithm>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

namespace segcore {
namespace {

using torch::stable::Tensor;

// Tokens below which one more thread costs more than it brings.
constexpr int64_t kTokensPerThread = 2048;

void order_by_x_then_y(const float* positions, int64_t tokens, int64_t* order) {
  const auto key = [positions](int64_t i) {
    return x_then_y_key(positions[2 * i], positions[2 * i + 1]);
  };
  for (int64_t i = 0; i < tokens; ++i) order[i] = i;
  std::stable_sort(order, order + tokens, [&](int64_t a, int64_t b) { return key(a) < key(b); });
}

void order_along_patches(
    const PlaceInPatch* places, float largest_ratio, int64_t tokens, int64_t* order) {
  std::vector<uint64_t> keys(tokens);
  for (int64_t i = 0; i < tokens; ++i) {
    keys[i] = order_key(sort_key(places[i], largest_ratio), static_cast<uint32_t>(i));
  }
  std::sort(keys.begin(), keys.end());
  std::transform(keys.begin(), keys.end(), order, index_of_key);
}

std::vector<PlaceInPatch> find_places(
    const Patches& patches, const float* positions, int64_t tokens) {
  std::vector<PlaceInPatch> places(tokens);
  torch::stable::parallel_for(0, tokens, kTokensPerThread, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      places[i] = place_in_patch(patches, positions[2 * i], positions[2 * i + 1]);
    }
  });
  return places;
}

// The largest ratio of each image, or of the batch.
std::vector<float> largest_ratios(
    const std::vector<PlaceInPatch>& places, const ClusteringSizes& s, bool per_image) {
  std::vector<float> largest(s.batch, 0);
  for (int64_t n = 0; n < s.batch; ++n) {
    for (int64_t i = n * s.tokens; i < (n + 1) * s.tokens; ++i) {
      largest[n] = std::max(largest[n], places[i].ratio);
    }
  }
  if (!per_image) largest.assign(s.batch, *std::max_element(largest.begin(), largest.end()));
  return largest;
}

Tensor run(
    const ClusteringSizes& s,
    const Patches& patches,
    const Tensor& positions,
    bool per_image,
    Tensor& centers) {
  Tensor order = torch::stable::new_empty(
      positions, {s.batch, s.tokens}, torch::headeronly::ScalarType::Long);
  const bool along_patches = patches.count() > 1;
  const float* position = positions.const_data_ptr<float>();
  std::vector<PlaceInPatch> places;
  std::vector<float> largest_ratio(s.batch);
  if (along_patches) {
    places = find_places(patches, position, s.batch * s.tokens);
    largest_ratio = largest_ratios(places, s, per_image);
  }
  int64_t* const orders = order.mutable_data_ptr<int64_t>();
  float* const means = centers.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, s.batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const float* image_positions = position + 2 * n * s.tokens;
      int64_t* image_order = orders + n * s.tokens;
      if (along_patches) {
        order_along_patches(&places[n * s.tokens], largest_ratio[n], s.tokens, image_order);
      } else {
        order_by_x_then_y(image_positions, s.tokens, image_order);
      }
      for (int64_t j = 0; j < s.clusters(); ++j) {
        mean_position(s, image_positions, image_order, j, means + 2 * (n * s.clusters() + j));
      }
    }
  });
  return order;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("balanced_clusters", TORCH_BOX(&balanced_clusters_operator<run>));
}

}  // namespace segcore
