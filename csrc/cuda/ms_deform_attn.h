// Starting of the kernels of multi-scale deformable attention, whatever samples are made of.
#pragma once

#include <algorithm>

#include "../common/ms_deform_attn.h"
#include "inverse_lists.h"
#include "launch.h"
#include "ms_deform_attn.cuh"

namespace segcore::ms_deform_attn {

// Lanes that share a row, at most: more would mean more sums in the registers of each.
constexpr int kMostLanes = 16;

template <typename T, typename Source>
Inputs<T, Source> make_inputs(const MsDeformAttnLevels& s, const T* value, const Source& source) {
  STD_TORCH_CHECK(
      s.levels <= kMaxLevels, "spatial_shapes: expected at most ", kMaxLevels, " levels on CUDA");
  Inputs<T, Source> in = {};
  in.sizes = s;
  std::copy(s.level.begin(), s.level.end(), in.level);
  in.value = value;
  in.source = source;
  return in;
}

template <typename T, typename Source>
int64_t count_tiles(const Inputs<T, Source>& in, Tile tile) {
  if (!in.queries_are_cells()) return tile.rows(tile.columns(in.sizes.queries));
  int64_t count = 0;
  for (int64_t l = 0; l < in.sizes.levels; ++l) {
    count += tile.rows(in.level[l].height) * tile.columns(in.level[l].width);
  }
  return count;
}

// Bound of the offsets in an image, those of lanes without work included.
inline int64_t largest_offset(const MsDeformAttnSizes& s) {
  const int64_t coordinates = 4 * s.levels;  // of the references
  const int64_t numbers = std::max({2 * s.samples(), s.channels, coordinates}) * s.heads;
  const int64_t rows = std::max(s.tokens, s.queries);
  return (rows + kForwardTile.height * kForwardTile.width) * std::max<int64_t>(numbers, kWarp);
}

template <typename T, typename Source>
void launch_forward(Inputs<T, Source> in, T* output, cudaStream_t stream) {
  in.tiles = count_tiles(in, kForwardTile);
  for_row_access<T, kMostLanes>(in.sizes.channels, true, [&](auto access) {
    for_offset_type(largest_offset(in.sizes), [&](auto offset) {
      launch_blocks(
          forward_kernel<T, Source, decltype(offset), access.kVector, access.kLanes>,
          in.sizes.batch * in.tiles * in.sizes.heads, stream, in, output);
    });
  });
}

// Writes the gradients of the samples, and adds to that of value unless `grad_value` is null.
template <typename T, typename Source>
void launch_backward(
    Inputs<T, Source> in,
    const T* grad_output,
    Accumulator<T>* grad_value,
    const SampleGradients<Accumulator<T>>& grad_samples,
    cudaStream_t stream) {
  // 16 bytes a lane of the gradient of value, which half types have in float.
  for_row_access<Accumulator<T>, kMostLanes>(in.sizes.channels, true, [&](auto access) {
    in.tiles = count_tiles(in, kBackwardTile<access.kLanes>);
    for_offset_type(largest_offset(in.sizes), [&](auto offset) {
      launch(
          backward_kernel<T, Source, decltype(offset), access.kVector, access.kLanes>,
          in.sizes.batch * in.sizes.heads * in.tiles * kWarp, stream, in, grad_output, grad_value,
          grad_samples);
    });
  });
}

// The gradient of value by lists of the samples at each cell.
template <typename T>
torch::stable::Tensor gather_value_gradient(
    const Inputs<T>& in, const torch::stable::Tensor& value, const T* grad_output) {
  const MsDeformAttnSizes& s = in.sizes;
  const cudaStream_t stream = current_stream(value);
  const int64_t cells = corner_cells(in), samples = in.triples() * s.samples();
  torch::stable::Tensor keys =
      torch::stable::new_empty(value, {samples}, torch::headeronly::ScalarType::Long);
  launch(corner_keys_kernel<T>, samples, stream, in, cells, data_ptr<int64_t>(keys));
  const Bins bins = sort_into_bins(keys, s.batch * s.heads * cells);
  torch::stable::Tensor grad_value = torch::stable::new_empty(value, value.sizes());
  for_row_access<T>(s.channels, true, [&](auto access) {
    launch(
        value_gradients_kernel<T, access.kVector, access.kLanes>,
        s.batch * s.tokens * s.heads * access.kLanes, stream, in, grad_output, bins.lists(), cells,
        data_ptr<T>(grad_value));
  });
  return grad_value;
}

}  // namespace segcore::ms_deform_attn
