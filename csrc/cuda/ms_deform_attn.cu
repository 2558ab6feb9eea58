#include "ms_deform_attn.cuh"

#include <algorithm>

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"
#include "../common/ms_deform_attn.h"
#include "inverse_lists.h"
#include "launch.h"

namespace segcore::ms_deform_attn {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using torch::stable::accelerator::DeviceGuard;

// Lanes that share a row, at most: more would mean more sums in the registers of each.
constexpr int kMostLanes = 16;

// The arguments as the kernels read them.
struct Prepared {
  const MsDeformAttnLevels& sizes;
  const Tensor value, locations, weights;

  Prepared(const MsDeformAttnArguments& a, const MsDeformAttnLevels& s)
      : sizes(s),
        value(packed(a.value)),
        locations(packed(a.sampling_locations)),
        weights(packed(a.attention_weights)) {
    STD_TORCH_CHECK(
        s.levels <= kMaxLevels, "spatial_shapes: expected at most ", kMaxLevels, " levels on CUDA");
  }

  template <typename T>
  Inputs<T> inputs(Tile tile) const {
    using A = Accumulator<T>;
    Inputs<T> in = {};
    in.sizes = sizes;
    std::copy(sizes.level.begin(), sizes.level.end(), in.level);
    in.value = data_ptr<T>(value);
    in.locations = data_ptr<A>(locations);
    in.weights = data_ptr<A>(weights);
    in.tiles = tiles(tile);
    return in;
  }

  int64_t tiles(Tile tile) const {
    if (sizes.queries != sizes.tokens) return tile.rows(tile.columns(sizes.queries));
    int64_t count = 0;
    for (const Level& level : sizes.level) {
      count += tile.rows(level.height) * tile.columns(level.width);
    }
    return count;
  }

  // Bound of the offsets in an image, those of lanes without work included.
  int64_t largest_offset() const {
    const int64_t numbers = std::max(2 * sizes.samples(), sizes.channels) * sizes.heads;
    const int64_t rows = std::max(sizes.tokens, sizes.queries);
    return (rows + kForwardTile.height * kForwardTile.width) * std::max<int64_t>(numbers, kWarp);
  }
};

Tensor run_forward(const MsDeformAttnArguments& a, const MsDeformAttnLevels& s) {
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  Tensor output = torch::stable::new_empty(a.value, s.output());
  const cudaStream_t stream = current_stream(output);
  for_value_type(a.value.scalar_type(), [&](auto zero) {
    using T = decltype(zero);
    for_row_access<T, kMostLanes>(s.channels, true, [&](auto access) {
      for_offset_type(prepared.largest_offset(), [&](auto offset) {
        const Inputs<T> in = prepared.inputs<T>(kForwardTile);
        launch_blocks(
            forward_kernel<T, decltype(offset), access.kVector, access.kLanes>,
            s.batch * in.tiles * s.heads, stream, in, data_ptr<T>(output));
      });
    });
  });
  return output;
}

// Writes the gradients of locations and weights, and adds to that of value unless `grad_value` is null.
template <typename T>
void launch_backward(
    const Prepared& prepared,
    const Tensor& grad_output,
    Accumulator<T>* grad_value,
    Tensor& grad_locations,
    Tensor& grad_weights) {
  using A = Accumulator<T>;
  // 16 bytes a lane of the gradient of value, which half types have in float.
  for_row_access<A, kMostLanes>(prepared.sizes.channels, true, [&](auto access) {
    for_offset_type(prepared.largest_offset(), [&](auto offset) {
      const Inputs<T> in = prepared.inputs<T>(kBackwardTile<access.kLanes>);
      launch(
          backward_kernel<T, decltype(offset), access.kVector, access.kLanes>,
          in.sizes.batch * in.sizes.heads * in.tiles * kWarp, current_stream(grad_output), in,
          data_ptr<T>(grad_output), grad_value, data_ptr<A>(grad_locations),
          data_ptr<A>(grad_weights));
    });
  });
}

// The gradient of value by lists of the samples at each cell.
template <typename T>
Tensor gather_value_gradient(const Prepared& prepared, const Tensor& grad_output) {
  const MsDeformAttnLevels& s = prepared.sizes;
  const Inputs<T> in = prepared.inputs<T>(kForwardTile);
  const cudaStream_t stream = current_stream(grad_output);
  const int64_t cells = corner_cells(in), samples = in.triples() * s.samples();
  Tensor keys = torch::stable::new_empty(prepared.value, {samples}, ScalarType::Long);
  launch(corner_keys_kernel<T>, samples, stream, in, cells, data_ptr<int64_t>(keys));
  const Bins bins = sort_into_bins(keys, s.batch * s.heads * cells);
  Tensor grad_value = torch::stable::new_empty(prepared.value, prepared.value.sizes());
  for_row_access<T>(s.channels, true, [&](auto access) {
    launch(
        value_gradients_kernel<T, access.kVector, access.kLanes>,
        s.batch * s.tokens * s.heads * access.kLanes, stream, in, data_ptr<T>(grad_output),
        bins.lists(), cells, data_ptr<T>(grad_value));
  });
  return grad_value;
}

MsDeformAttnGradients run_backward(
    const Tensor& grad_output,
    const MsDeformAttnArguments& a,
    const MsDeformAttnLevels& s,
    bool deterministic) {
  const ScalarType type = a.value.scalar_type(), precision = a.attention_weights.scalar_type();
  const DeviceGuard guard(a.value.get_device_index());
  const Prepared prepared(a, s);
  const Tensor upstream = packed(grad_output);
  Tensor grad_value;
  Tensor grad_locations =
      torch::stable::new_empty(a.sampling_locations, a.sampling_locations.sizes());
  Tensor grad_weights = torch::stable::new_empty(a.attention_weights, a.attention_weights.sizes());
  for_value_type(type, [&](auto zero) {
    using T = decltype(zero);
    if (deterministic) {
      grad_value = gather_value_gradient<T>(prepared, upstream);
      launch_backward<T>(prepared, upstream, nullptr, grad_locations, grad_weights);
    } else {
      Tensor sums = torch::stable::new_zeros(a.value, a.value.sizes(), precision);
      launch_backward<T>(
          prepared, upstream, data_ptr<Accumulator<T>>(sums), grad_locations, grad_weights);
      grad_value = torch::stable::to(sums, type);
    }
  });
  return {grad_value, grad_locations, grad_weights};
}

}  // namespace
}  // namespace segcore::ms_deform_attn

STABLE_TORCH_LIBRARY_IMPL(segcore, CUDA, library) {
  using namespace segcore;
  library.impl("ms_deform_attn", TORCH_BOX(&MsDeformAttn::forward<ms_deform_attn::run_forward>));
  library.impl(
      "ms_deform_attn_backward",
      TORCH_BOX(&MsDeformAttn::backward_in_mode<ms_deform_attn::run_backward>));
}
