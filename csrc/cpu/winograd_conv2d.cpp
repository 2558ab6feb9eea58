#include "../common/winograd_conv2d.h"

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "divide.h"
#include "grain.h"
#include "product.h"
#include "scratch.h"

namespace segcore {
namespace {

using torch::stable::Tensor;
using Sizes = WinogradSizes;

constexpr int64_t kTile = Sizes::kTile, kPatch = Sizes::kPatch, kKernel = Sizes::kKernel;

// Inputs of the products that are held at a time: they stay in the cache of a core.
constexpr int64_t kBlock = 64 * 256;
constexpr int64_t kLeastTiles = 64;

// Numbers of a weight, without its 3 x 3, that are transformed at a time.
constexpr int64_t kWeights = 256 * 256;

// Filters that are multiplied at a time.
template <typename T>
constexpr int64_t kPanel = 4 * kWide<T>;

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

// Values of the polynomial at the points, which are exact but for the sums.
template <typename T, typename V>
SEGCORE_INLINE void transform_kernel(const V* g, int64_t step, V* out, int64_t out_step) {
  const V even_a = g[0] + T(kAA) * g[2 * step], odd_a = T(kA) * g[step];
  const V even_b = g[0] + T(kBB) * g[2 * step], odd_b = T(kB) * g[step];
  out[0] = g[0];
  out[out_step] = even_a + odd_a;
  out[2 * out_step] = even_a - odd_a;
  out[3 * out_step] = even_b + odd_b;
  out[4 * out_step] = even_b - odd_b;
  out[5 * out_step] = g[2 * step];
}

// By what they are divided: the products of a point's differences to the others.
constexpr double kDifferences[kPatch] = {
    kAA * kBB, 2 * kAA * (kAA - kBB), 2 * kAA * (kAA - kBB),
    2 * kBB * (kBB - kAA), 2 * kBB * (kBB - kAA), 1};

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

// Consecutive tiles, in rows of the inputs (36, rows, channels) and products (36, rows, columns).
struct Block {
  int64_t first, count, rows;
};

// Inputs of the tiles [begin, end) of a block.
template <typename T>
SEGCORE_TARGET_CLONES void transform_tiles(
    const Sizes& s,
    const Block& block,
    const T* x,
    const T* zeros,
    int64_t begin,
    int64_t end,
    T* inputs) {
  for (int64_t t = begin; t < end; ++t) {
    const int64_t tile = block.first + t, image = tile / (s.rows() * s.columns());
    const int64_t top = tile / s.columns() % s.rows() * kTile - 1;
    const int64_t left = tile % s.columns() * kTile - 1;
    std::array<const T*, Sizes::kProducts> pixels;
    for (int64_t i = 0; i < Sizes::kProducts; ++i) {
      const int64_t row = top + i / kPatch, column = left + i % kPatch;
      const bool inside = 0 <= row && row < s.height && 0 <= column && column < s.width;
      pixels[i] = inside ? x + ((image * s.height + row) * s.width + column) * s.channels : zeros;
    }
    T* const out = inputs + t * s.channels;
    const int64_t stride = block.rows * s.channels;
    int64_t c = 0;
    for (; c + kLanes <= s.channels; c += kLanes) {
      transform_patch<T, Lanes<T>>(pixels, c, out, stride);
    }
    for (; c < s.channels; ++c) transform_patch<T, T>(pixels, c, out, stride);
  }
}

// Channels whose kernels are brought into vectors of filters at a time, so that memory is read in runs.
constexpr int64_t kChannelRun = 32, kTaps = kKernel * kKernel;

// One vector of kernels, 9 in all, to the 36 factors of the products.
template <typename T>
SEGCORE_INLINE void transform_kernels(
    const T (&kernels)[kTaps][kWide<T>], const Wide<T>& scale, T* filters, int64_t stride) {
  Wide<T> taps[kTaps], half[kPatch * kKernel], patch[Sizes::kProducts];
  for (int64_t i = 0; i < kTaps; ++i) taps[i] = vector_at<Wide<T>>(kernels[i]) * scale;
  for (int64_t j = 0; j < kKernel; ++j) transform_kernel<T>(taps + j, kKernel, half + j, kKernel);
  for (int64_t i = 0; i < kPatch; ++i) {
    transform_kernel<T>(half + kKernel * i, 1, patch + kPatch * i, 1);
  }
  for (int64_t i = 0; i < Sizes::kProducts; ++i) {
    const T factor = T(1 / (kDifferences[i / kPatch] * kDifferences[i % kPatch]));
    vector_at<Wide<T>>(filters + i * stride) = factor * patch[i];
  }
}

// Consecutive filters, in panels of kPanel columns.
template <typename T>
struct Filters {
  int64_t first, count;

  int64_t panels() const { return divide_up(count, kPanel<T>); }
  int64_t columns() const { return panels() * kPanel<T>; }
};

// The factors of the products, (36, panels, channels, kPanel), of the filters from `begin` that make up a
// vector; beyond the last filter they are 0.
template <typename T>
SEGCORE_TARGET_CLONES void transform_filters(
    const Sizes& s,
    const Filters<T>& filters,
    const T* weight,
    const T* scale,
    int64_t begin,
    T* factors) {
  const int64_t first = filters.first + begin, lanes = std::min(filters.count - begin, kWide<T>);
  T* const target = factors + begin / kPanel<T> * s.channels * kPanel<T> + begin % kPanel<T>;
  T scales[kWide<T>] = {}, kernels[kChannelRun][kTaps][kWide<T>] = {};
  for (int64_t i = 0; i < lanes; ++i) scales[i] = scale == nullptr ? T(1) : scale[first + i];
  for (int64_t c = 0; c < s.channels; c += kChannelRun) {
    const int64_t run = std::min(kChannelRun, s.channels - c);
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const T* source = weight + ((first + lane) * s.channels + c) * kTaps;
      for (int64_t i = 0; i < run; ++i, source += kTaps) {
        for (int64_t tap = 0; tap < kTaps; ++tap) kernels[i][tap][lane] = source[tap];
      }
    }
    for (int64_t i = 0; i < run; ++i) {
      transform_kernels(
          kernels[i], vector_at<Wide<T>>(scales), target + (c + i) * kPanel<T>,
          filters.columns() * s.channels);
    }
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

// Products of the first rows of a block, whole groups of them, with a panel of so many columns.
template <typename T>
SEGCORE_TARGET_CLONES void multiply_tiles(
    int64_t rows,
    int64_t channels,
    const T* inputs,
    const T* factors,
    int64_t columns,
    T* products,
    int64_t product_row) {
  for (int64_t row = 0; row < rows; row += kProductRows) {
    multiply(
        inputs + row * channels, channels, channels, factors, kPanel<T>, columns,
        products + row * product_row, product_row);
  }
}

// Results of the tiles [begin, end) of a block, of products (36, rows, columns).
template <typename T>
SEGCORE_TARGET_CLONES void finish_tiles(
    const Sizes& s,
    const Block& block,
    const Filters<T>& filters,
    const T* products,
    const T* bias,
    bool relu,
    int64_t begin,
    int64_t end,
    T* output) {
  const int64_t stride = block.rows * filters.columns();
  const T* const added = bias == nullptr ? nullptr : bias + filters.first;
  for (int64_t t = begin; t < end; ++t) {
    const int64_t tile = block.first + t, image = tile / (s.rows() * s.columns());
    const int64_t top = tile / s.columns() % s.rows() * kTile;
    const int64_t left = tile % s.columns() * kTile;
    const int64_t rows = std::min(kTile, s.height - top), columns = std::min(kTile, s.width - left);
    const T* const in = products + t * filters.columns();
    T* const out =
        output + ((image * s.height + top) * s.width + left) * s.filters + filters.first;
    int64_t k = 0;
    for (; k + kLanes <= filters.count; k += kLanes) {
      transform_tile<T, Lanes<T>>(
          s, in + k, stride, added == nullptr ? added : added + k, relu, rows, columns, out + k);
    }
    for (; k < filters.count; ++k) {
      transform_tile<T, T>(
          s, in + k, stride, added == nullptr ? added : added + k, relu, rows, columns, out + k);
    }
  }
}

// The number of tiles of a block: blocks are about equally large.
int64_t tiles_at_a_time(const Sizes& s) {
  const int64_t wished = std::max(kLeastTiles, kBlock / std::max(s.channels, s.filters)) *
                         torch::stable::get_num_threads();
  return divide_up(s.tiles(), divide_up(s.tiles(), wished));
}

template <typename T>
struct Convolution {
  Sizes s;
  const T *x, *weight, *scale, *bias;
  bool relu;
  T* output;

  void run() const {
    const int64_t tiles = tiles_at_a_time(s);
    const int64_t wished = kWeights / std::max<int64_t>(1, s.channels) / kPanel<T> * kPanel<T>;
    const int64_t filters = std::min(s.filters, std::max(kPanel<T>, wished));
    // Whole groups of the product's rows, and one more: the inputs of a tile's products, which are so
    // many rows apart, do not compete for the same places of the cache.
    const int64_t rows = round_up(tiles, kProductRows) + 1;
    const int64_t columns = Filters<T>{0, filters}.columns();
    const Scratch<T> factors = make_scratch<T>(Sizes::kProducts * s.channels * columns);
    // The rows beyond the last tile are multiplied with it.
    const Scratch<T> inputs = make_zeroed_scratch<T>(Sizes::kProducts * rows * s.channels);
    const Scratch<T> products = make_scratch<T>(Sizes::kProducts * rows * columns);
    for (int64_t filter = 0; filter < s.filters; filter += filters) {
      const Filters<T> part = {filter, std::min(filters, s.filters - filter)};
      transform_weight(part, factors.get());
      for (int64_t first = 0; first < s.tiles(); first += tiles) {
        const Block block = {first, std::min(tiles, s.tiles() - first), rows};
        transform(block, inputs.get());
        multiply(block, part, inputs.get(), factors.get(), products.get());
        finish(block, part, products.get());
      }
    }
  }

 private:
  void transform_weight(const Filters<T>& filters, T* factors) const {
    torch::stable::parallel_for(
        0, divide_up(filters.count, kWide<T>), grain(Sizes::kProducts * s.channels * kWide<T>),
        [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            transform_filters(s, filters, weight, scale, i * kWide<T>, factors);
          }
        });
  }

  void transform(const Block& block, T* inputs) const {
    const std::vector<T> zeros(s.channels);
    torch::stable::parallel_for(
        0, block.count, grain(Sizes::kProducts * s.channels), [&](int64_t begin, int64_t end) {
          transform_tiles(s, block, x, zeros.data(), begin, end, inputs);
        });
  }

  void multiply(
      const Block& block,
      const Filters<T>& filters,
      const T* inputs,
      const T* factors,
      T* products) const {
    const int64_t rows = round_up(block.count, kProductRows);
    torch::stable::parallel_for(
        0, Sizes::kProducts * filters.panels(), grain(rows * s.channels * kPanel<T>),
        [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            const int64_t product = i / filters.panels();
            const int64_t column = i % filters.panels() * kPanel<T>;
            multiply_tiles(
                rows, s.channels, inputs + product * block.rows * s.channels,
                factors + i * s.channels * kPanel<T>,
                padded<T>(std::min(kPanel<T>, filters.count - column)),
                products + product * block.rows * filters.columns() + column, filters.columns());
          }
        });
  }

  void finish(const Block& block, const Filters<T>& filters, const T* products) const {
    torch::stable::parallel_for(
        0, block.count, grain(Sizes::kProducts * filters.count), [&](int64_t begin, int64_t end) {
          finish_tiles(s, block, filters, products, bias, relu, begin, end, output);
        });
  }
};

// (B, C, H, W) -> (B, H, W, C), without a copy of the data.
Tensor channels_last(const Tensor& x) {
  return torch::stable::transpose(torch::stable::transpose(x, 1, 2), 2, 3);
}
Tensor channels_first(const Tensor& x) {
  return torch::stable::transpose(torch::stable::transpose(x, 2, 3), 1, 2);
}

std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x ? std::optional(torch::stable::contiguous(*x)) : std::nullopt;
}

Tensor run(const WinogradArguments& a, const Sizes& s) {
  const Tensor x = torch::stable::contiguous(channels_last(a.x));
  const Tensor weight = torch::stable::contiguous(a.weight);
  const std::optional<Tensor> bias = contiguous(a.bias), scale = contiguous(a.scale);
  Tensor output = torch::stable::new_empty(x, {s.batch, s.height, s.width, s.filters});
  if (s.tiles() > 0 && s.filters > 0) {
    for_precision(x.scalar_type(), [&](auto zero) {
      using T = decltype(zero);
      const auto data = [](const auto& t) { return t ? t->template const_data_ptr<T>() : nullptr; };
      Convolution<T>{
          s, x.const_data_ptr<T>(), weight.const_data_ptr<T>(), data(scale), data(bias), a.relu,
          output.mutable_data_ptr<T>()}
          .run();
    });
  }
  return channels_first(output);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("winograd_conv2d", TORCH_BOX(&WinogradConv2d::forward<run>));
}

}  // namespace segcore
