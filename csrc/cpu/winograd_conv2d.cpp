#include "../common/winograd_conv2d.h"

#include <algorithm>
#include <array>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "grain.h"
#include "lanes.h"

namespace segcore {
namespace {

using torch::stable::Tensor;
using Sizes = WinogradSizes;

constexpr int64_t kTile = Sizes::kTile, kPatch = Sizes::kPatch;

// Inputs of the products that are held at a time: they stay in the cache of a core.
constexpr int64_t kBlock = 64 * 256;
constexpr int64_t kLeastTiles = 64;

// The points of the transforms, see winograd_conv2d.py.
constexpr double kA = 0.75, kB = 1.5, kAA = kA * kA, kBB = kB * kB;

template <typename T, typename V>
SEGCORE_INLINE void transform_inputs(const V* x, int64_t step, V* out, int64_t out_step) {
  const V x0 = x[0], x1 = x[step], x2 = x[2 * step], x3 = x[3 * step], x4 = x[4 * step];
  const V x5 = x[5 * step];
  const V even_a = x4 - T(kBB) * x2, odd_a = T(kA) * (x3 - T(kBB) * x1);
  const V even_b = x4 - T(kAA) * x2, odd_b = T(kB) * (x3 - T(kAA) * x1);
  out[0] = T(kAA * kBB) * x0 - T(kAA + kBB) * x2 + x4;
  out[out_step] = even_a + odd_a;
  out[2 * out_step] = even_a - odd_a;
  out[3 * out_step] = even_b + odd_b;
  out[4 * out_step] = even_b - odd_b;
  out[5 * out_step] = T(kAA * kBB) * x1 - T(kAA + kBB) * x3 + x5;
}

template <typename T, typename V>
SEGCORE_INLINE void transform_products(const V* m, int64_t step, V* out, int64_t out_step) {
  const V sum_a = m[step] + m[2 * step], difference_a = m[step] - m[2 * step];
  const V sum_b = m[3 * step] + m[4 * step], difference_b = m[3 * step] - m[4 * step];
  out[0] = m[0] + sum_a + sum_b;
  out[out_step] = T(kA) * difference_a + T(kB) * difference_b;
  out[2 * out_step] = T(kAA) * sum_a + T(kBB) * sum_b;
  out[3 * out_step] = T(kAA * kA) * difference_a + T(kBB * kB) * difference_b + m[5 * step];
}

// One patch of pixels (each of `channels`), by pointers to them, to the 36 inputs of the products.
template <typename T, typename V>
SEGCORE_INLINE void transform_patch(
    const std::array<const T*, Sizes::kProducts>& pixels, int64_t c, T* inputs, int64_t stride) {
  V patch[Sizes::kProducts], half[Sizes::kProducts];
  for (int64_t i = 0; i < Sizes::kProducts; ++i) patch[i] = vector_at<V>(pixels[i] + c);
  for (int64_t j = 0; j < kPatch; ++j) transform_inputs<T>(patch + j, kPatch, half + j, kPatch);
  for (int64_t i = 0; i < kPatch; ++i) {
    transform_inputs<T>(half + kPatch * i, 1, patch + kPatch * i, 1);
  }
  for (int64_t i = 0; i < Sizes::kProducts; ++i) vector_at<V>(inputs + i * stride + c) = patch[i];
}

// The tiles [begin, end) of a block that starts at the tile `first`: inputs (36, tiles, channels).
template <typename T>
SEGCORE_TARGET_CLONES void inputs_of_tiles(
    const Sizes& s,
    const T* x,
    const T* zeros,
    int64_t first,
    int64_t begin,
    int64_t end,
    int64_t tiles,
    T* inputs) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t tile = first + t, image = tile / (s.rows() * s.columns());
    const int64_t top = tile / s.columns() % s.rows() * kTile - 1;
    const int64_t left = tile % s.columns() * kTile - 1;
    std::array<const T*, Sizes::kProducts> pixels;
    for (int64_t i = 0; i < Sizes::kProducts; ++i) {
      const int64_t row = top + i / kPatch, column = left + i % kPatch;
      const bool inside = 0 <= row && row < s.height && 0 <= column && column < s.width;
      pixels[i] = inside ? x + ((image * s.height + row) * s.width + column) * s.channels : zeros;
    }
    T* const out = inputs + t * s.channels;
    int64_t c = 0;
    for (; c + kLanes <= s.channels; c += kLanes) {
      transform_patch<T, Lanes<T>>(pixels, c, out, tiles * s.channels);
    }
    for (; c < s.channels; ++c) transform_patch<T, T>(pixels, c, out, tiles * s.channels);
  }
}

template <typename T, typename V>
SEGCORE_INLINE void transform_tile(
    const Sizes& s,
    const T* products,
    int64_t stride,
    const T* bias,
    bool relu,
    int64_t rows,
    int64_t columns,
    T* output) {
  V patch[Sizes::kProducts], half[kTile * kPatch], tile[kTile * kTile];
  for (int64_t i = 0; i < Sizes::kProducts; ++i) patch[i] = vector_at<V>(products + i * stride);
  for (int64_t j = 0; j < kPatch; ++j) transform_products<T>(patch + j, kPatch, half + j, kPatch);
  for (int64_t i = 0; i < kTile; ++i) {
    transform_products<T>(half + kPatch * i, 1, tile + kTile * i, 1);
  }
  const V zero = {}, added = bias == nullptr ? zero : vector_at<V>(bias);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      const V y = tile[kTile * i + j] + added;
      // NaN stays NaN.
      vector_at<V>(output + (i * s.width + j) * s.filters) = relu ? (y < zero ? zero : y) : y;
    }
  }
}

// The tiles [begin, end) of a block that starts at the tile `first`, of products (36, tiles, filters).
template <typename T>
SEGCORE_TARGET_CLONES void results_of_tiles(
    const Sizes& s,
    const T* products,
    const T* bias,
    bool relu,
    int64_t first,
    int64_t begin,
    int64_t end,
    int64_t tiles,
    T* output) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t tile = first + t, image = tile / (s.rows() * s.columns());
    const int64_t top = tile / s.columns() % s.rows() * kTile;
    const int64_t left = tile % s.columns() * kTile;
    const int64_t rows = std::min(kTile, s.height - top), columns = std::min(kTile, s.width - left);
    const T* const in = products + t * s.filters;
    T* const out = output + ((image * s.height + top) * s.width + left) * s.filters;
    const int64_t stride = tiles * s.filters;
    int64_t k = 0;
    for (; k + kLanes <= s.filters; k += kLanes) {
      transform_tile<T, Lanes<T>>(
          s, in + k, stride, bias == nullptr ? bias : bias + k, relu, rows, columns, out + k);
    }
    for (; k < s.filters; ++k) {
      transform_tile<T, T>(
          s, in + k, stride, bias == nullptr ? bias : bias + k, relu, rows, columns, out + k);
    }
  }
}

// The number of tiles of a block: blocks are about equally large. It is odd, so that the inputs of the
// products of a tile, which are so many rows apart, do not compete for the same places of the cache.
int64_t tiles_at_a_time(const Sizes& s) {
  const int64_t wished = std::max(kLeastTiles, kBlock / std::max(s.channels, s.filters)) *
                         torch::stable::get_num_threads();
  const int64_t blocks = (s.tiles() + wished - 1) / wished;
  return (s.tiles() + blocks - 1) / blocks | 1;
}

// out = a @ b, (36, m, k) by (36, k, n).
void multiply(const Tensor& a, const Tensor& b, Tensor& out) {
  std::array<StableIValue, 3> stack = {
      torch::stable::detail::from(a), torch::stable::detail::from(b),
      torch::stable::detail::from(out)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::bmm", "out", stack.data(), TORCH_ABI_VERSION));
  out = torch::stable::detail::to<Tensor>(stack[0]);
}

template <typename T>
void convolve(
    const Sizes& s,
    const Tensor& x,
    const Tensor& weight,
    const Tensor* bias,
    bool relu,
    Tensor& output) {
  const int64_t tiles = tiles_at_a_time(s);
  Tensor inputs = torch::stable::new_empty(x, {Sizes::kProducts, tiles, s.channels});
  Tensor products = torch::stable::new_empty(x, {Sizes::kProducts, tiles, s.filters});
  const std::vector<T> zeros(s.channels);
  const T* const pixels = x.const_data_ptr<T>();
  const T* const added = bias == nullptr ? nullptr : bias->const_data_ptr<T>();
  T* const out = output.mutable_data_ptr<T>();
  for (int64_t first = 0; first < s.tiles(); first += tiles) {
    const int64_t count = std::min(tiles, s.tiles() - first);
    T* const input = inputs.mutable_data_ptr<T>();
    torch::stable::parallel_for(
        0, count, grain(Sizes::kProducts * s.channels), [&](int64_t begin, int64_t end) {
          inputs_of_tiles(s, pixels, zeros.data(), first, begin, end, tiles, input);
        });
    // Of the last block, also what is left of the one before.
    multiply(inputs, weight, products);
    const T* const product = products.const_data_ptr<T>();
    torch::stable::parallel_for(
        0, count, grain(Sizes::kProducts * s.filters), [&](int64_t begin, int64_t end) {
          results_of_tiles(s, product, added, relu, first, begin, end, tiles, out);
        });
  }
}

// (B, C, H, W) -> (B, H, W, C), without a copy of the data.
Tensor channels_last(const Tensor& x) {
  return torch::stable::transpose(torch::stable::transpose(x, 1, 2), 2, 3);
}
Tensor channels_first(const Tensor& x) {
  return torch::stable::transpose(torch::stable::transpose(x, 2, 3), 1, 2);
}

Tensor run(const WinogradArguments& a, const Sizes& s) {
  const Tensor x = torch::stable::contiguous(channels_last(a.x));
  const Tensor weight = torch::stable::contiguous(a.weight);
  std::optional<Tensor> bias;
  if (a.bias) bias = torch::stable::contiguous(*a.bias);
  Tensor output = torch::stable::new_empty(x, {s.batch, s.height, s.width, s.filters});
  if (s.tiles() > 0 && s.filters > 0) {
    for_precision(x.scalar_type(), [&](auto zero) {
      convolve<decltype(zero)>(s, x, weight, bias ? &*bias : nullptr, a.relu, output);
    });
  }
  return channels_first(output);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("winograd_conv2d", TORCH_BOX(&WinogradConv2d::forward<run>));
}

}  // namespace segcore
