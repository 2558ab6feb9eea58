#include "cluster_attention.h"

#include <torch/csrc/stable/library.h>

#include "../common/dispatch.h"

namespace segcore::cluster_attention {
namespace {

// Output of the tokens [begin, end) of image n, with vectors V.
template <typename V, typename T>
SEGCORE_TARGET_CLONES void forward_tokens(
    const Inputs<T>& in, int64_t n, int64_t begin, int64_t end, Tile<T>& tile, T* output) {
  const int64_t channels = in.sizes.channels, heads = in.sizes.heads;
  for (int64_t first = begin; first < end; first += tile.tokens) {
    const int64_t tokens = std::min(tile.tokens, end - first);
    for (int64_t t = 0; t < tokens; ++t) collect(in, n, first + t, tile_neighbors(in, tile, t));
    for (int64_t a = 0; a < heads; ++a) {
      const T* blank_v = in.blank_v + a * channels;
      const T* values = in.v.row(n, 0, a);
      for (int64_t t = 0; t < tokens; ++t) {
        const Neighbors<T> neighbors = tile_neighbors(in, tile, t);
        const Softmax<T> s = attend<V>(in, n, first + t, a, neighbors, tile);
        T* out = output + ((n * in.sizes.tokens + first + t) * heads + a) * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] = s.blank * blank_v[c];
        add_rows<V>(
            in.block, neighbors.blocks, in.blocks_per_token(), tile.weights.data(), values,
            in.v.token, channels, out);
        const T inverse = 1 / s.sum;
        for (int64_t c = 0; c < channels; ++c) out[c] *= inverse;
      }
    }
  }
}

template <typename T>
void forward(const Inputs<T>& in, T* output) {
  const ClusterAttentionSizes& s = in.sizes;
  const int64_t tiles = (s.tokens + kTile - 1) / kTile;
  const auto run_tokens =
      has_wide_registers() ? forward_tokens<Wide<T>, T> : forward_tokens<Lanes<T>, T>;
  const int64_t work = kTile * in.slots_per_token() * s.heads * (s.channels + 8);
  torch::stable::parallel_for(
      0, s.batch * tiles, grain(work), [&](int64_t begin, int64_t end) {
        Tile<T> tile(in);
        for (int64_t item = begin; item < end; ++item) {
          const int64_t first = item % tiles * kTile;
          const int64_t last = std::min(first + kTile, s.tokens);
          run_tokens(in, item / tiles, first, last, tile, output);
        }
      });
}

Tensor run(const ClusterAttentionArguments& a, const ClusterAttentionSizes& s) {
  const ScalarType precision = accumulation_type(a.q.scalar_type());
  const Prepared prepared(a, s, /*for_backward=*/false);
  Tensor output = torch::stable::new_empty(a.q, s.output(), precision);
  for_precision(precision, [&](auto zero) {
    using T = decltype(zero);
    forward(prepared.inputs<T>(), output.mutable_data_ptr<T>());
  });
  return torch::stable::to(output, a.q.scalar_type());
}

}  // namespace
}  // namespace segcore::cluster_attention

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  using namespace segcore;
  library.impl(
      "cluster_attention", TORCH_BOX(&ClusterAttention::forward<cluster_attention::run>));
}
