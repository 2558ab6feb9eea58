#include "balanced_clusters.cuh"

#include <torch/csrc/stable/library.h>

#include "../common/balanced_clusters.h"
#include "aten.h"
#include "launch.h"

namespace segcore::balanced_clusters {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// Keys by which the tokens of each image are sorted: (batch, tokens).
Tensor sort_keys(
    const ClusteringSizes& s, const Patches& patches, const Tensor& positions, bool per_image) {
  const cudaStream_t stream = current_stream(positions);
  const int64_t tokens = s.batch * s.tokens;
  const float* position = data_ptr<float>(positions);
  if (patches.count() == 1) {
    Tensor keys = torch::stable::new_empty(positions, {s.batch, s.tokens}, ScalarType::Long);
    launch(x_then_y_keys_kernel, tokens, stream, position, tokens, data_ptr<int64_t>(keys));
    return keys;
  }
  Tensor ratios = torch::stable::new_empty(positions, {s.batch, s.tokens});
  launch(ratios_kernel, tokens, stream, patches, position, tokens, data_ptr<float>(ratios));
  const Tensor image_ratios = torch::stable::amax(ratios, 1);
  const Tensor largest = per_image ? image_ratios : torch::stable::amax(image_ratios, 0);
  Tensor keys = torch::stable::new_empty(positions, {s.batch, s.tokens});
  launch(
      patch_keys_kernel, tokens, stream, s, patches, position, data_ptr<float>(largest), per_image,
      data_ptr<float>(keys));
  return keys;
}

Tensor run(
    const ClusteringSizes& s,
    const Patches& patches,
    const Tensor& positions,
    bool per_image,
    Tensor& centers) {
  const DeviceGuard guard(positions.get_device_index());
  const Tensor order = stable_sort(sort_keys(s, patches, positions, per_image)).second;
  launch(
      centers_kernel, s.batch * s.clusters(), current_stream(positions), s,
      data_ptr<float>(positions), data_ptr<int64_t>(order), data_ptr<float>(centers));
  return order;
}

}  // namespace
}  // namespace segcore::balanced_clusters

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  library.impl(
      "balanced_clusters",
      TORCH_BOX(&segcore::balanced_clusters_operator<segcore::balanced_clusters::run>));
}
