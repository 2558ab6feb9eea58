#include "../common/window_attention.h"

#include <algorithm>
#include <limits>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "grain.h"
#include "product.h"
#include "scratch.h"
#include "transpose.h"

namespace segcore {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Queries of a product, which share what is loaded of keys and values.
constexpr int kQueries = kProductRows;

// What is added to logits between cells that are no neighbors in the map.
constexpr int kMasked = -100;

template <typename V, typename T>
struct Inputs {
  WindowAttentionSizes sizes;
  T scale;
  const V* qkv;
  const V* padding;
  const T* bias;  // (heads, tokens, padded(tokens)), -infinity beyond the tokens
};

// Scratch memory of a thread: a window, and one head of it.
template <typename V, typename T>
struct Window {
  std::vector<const V*> source;  // (tokens) qkv of each cell
  std::vector<int64_t> inside;   // cells of the map among them, by token
  std::vector<V*> target;        // output of these
  std::vector<T> region;         // (padded(tokens)) cells with equal numbers see each other
  bool masked;
  Scratch<T> query;    // (inside, channels), scaled
  Scratch<T> key;      // (channels, padded(tokens))
  Scratch<T> value;    // (tokens, padded(channels))
  Scratch<T> weights;  // (kQueries, padded(tokens))
  Scratch<T> sums;     // (kQueries, padded(channels))

  explicit Window(const WindowAttentionSizes& s)
      : source(s.tokens()),
        region(padded<T>(s.tokens())),
        query(make_zeroed_scratch<T>((s.tokens() + kQueries) * s.channels)),
        key(make_zeroed_scratch<T>(s.channels * padded<T>(s.tokens()))),
        value(make_zeroed_scratch<T>(s.tokens() * padded<T>(s.channels))),
        weights(make_scratch<T>(kQueries * padded<T>(s.tokens()))),
        sums(make_scratch<T>(kQueries * padded<T>(s.channels))) {}
};

// 0, 1, 2: in the windows before the last, in the last, and in the part of it that the shift brought
// there from the other edge.
inline int64_t region_along(int64_t position, int64_t size, int64_t window, int64_t shift) {
  return (position >= size - window) + (position >= size - shift);
}

// Finds the cells of a window of the map, which is rolled by the negative shifts.
template <typename V, typename T>
void place(const Inputs<V, T>& in, int64_t number, V* output, Window<V, T>& window) {
  const WindowAttentionSizes& s = in.sizes;
  const int64_t column = number % s.columns(), row = number / s.columns() % s.rows();
  const int64_t image = number / (s.columns() * s.rows());
  const int64_t height = s.rows() * s.window, width = s.columns() * s.window;
  window.masked = (s.row_shift > 0 && row == s.rows() - 1) ||
      (s.column_shift > 0 && column == s.columns() - 1);
  window.inside.clear();
  window.target.clear();
  int64_t t = 0;
  for (int64_t y = row * s.window; y < (row + 1) * s.window; ++y) {
    const int64_t rolled_y = y + s.row_shift;
    const int64_t map_y = rolled_y < height ? rolled_y : rolled_y - height;
    const int64_t row_region = 3 * region_along(y, height, s.window, s.row_shift);
    for (int64_t x = column * s.window; x < (column + 1) * s.window; ++x, ++t) {
      const int64_t rolled_x = x + s.column_shift;
      const int64_t map_x = rolled_x < width ? rolled_x : rolled_x - width;
      window.region[t] = T(row_region + region_along(x, width, s.window, s.column_shift));
      window.source[t] = in.padding;
      if (map_y >= s.height || map_x >= s.width) continue;
      const int64_t cell = (image * s.height + map_y) * s.width + map_x;
      window.source[t] = in.qkv + cell * 3 * s.heads * s.channels;
      window.inside.push_back(t);
      window.target.push_back(output + cell * s.heads * s.channels);
    }
  }
}

// Loads queries, keys and values of head a.
template <typename V, typename T>
SEGCORE_INLINE void load(const Inputs<V, T>& in, int64_t a, Window<V, T>& window) {
  const WindowAttentionSizes& s = in.sizes;
  const int64_t channels = s.channels, dim = s.heads * channels, tokens = s.tokens();
  const int64_t key_row = padded<T>(tokens), value_row = padded<T>(channels);
  const int64_t query_offset = a * channels, key_offset = dim + query_offset;
  const V* const* source = window.source.data();
  int64_t t = 0;
  for (; t + kLanes <= tokens; t += kLanes) {
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      transpose_block(source + t, key_offset + c, window.key.get() + c * key_row + t, key_row);
    }
    for (; c < channels; ++c) {
      T* key = window.key.get() + c * key_row + t;
      for (int i = 0; i < kLanes; ++i) key[i] = T(source[t + i][key_offset + c]);
    }
  }
  for (; t < tokens; ++t) {
    for (int64_t c = 0; c < channels; ++c) {
      window.key[c * key_row + t] = T(source[t][key_offset + c]);
    }
  }
  for (t = 0; t < tokens; ++t) {
    copy_row(
        source[t] + key_offset + dim, channels, T(1), window.value.get() + t * value_row);
  }
  T* query = window.query.get();
  for (const int64_t i : window.inside) {
    copy_row(source[i] + query_offset, channels, in.scale, query);
    query += channels;
  }
}

// Products -> exponentials of the logits of a query; returns the inverse of their sum.
template <typename T>
SEGCORE_INLINE T exponentials(
    const T* bias, const T* region, bool masked, T own_region, int64_t count, T* weights) {
  if (masked) {
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) weights[j] += region[j] == own_region ? T(0) : T(kMasked);
  }
  T largest = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : largest)
  for (int64_t j = 0; j < count; ++j) {
    weights[j] += bias[j];
    largest = largest < weights[j] ? weights[j] : largest;
  }
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < count; ++j) {
    weights[j] = exp_of_negative(weights[j] - largest);
    sum += weights[j];
  }
  return 1 / sum;
}

// Output of head a of a window.
template <typename V, typename T>
SEGCORE_TARGET_CLONES void attend(const Inputs<V, T>& in, int64_t a, Window<V, T>& window) {
  const WindowAttentionSizes& s = in.sizes;
  const int64_t key_row = padded<T>(s.tokens()), value_row = padded<T>(s.channels);
  const int64_t queries = static_cast<int64_t>(window.inside.size());
  load(in, a, window);
  T* weights = window.weights.get();
  T* sums = window.sums.get();
  for (int64_t first = 0; first < queries; first += kQueries) {
    const int64_t count = std::min<int64_t>(kQueries, queries - first);
    const T* query = window.query.get() + first * s.channels;
    multiply(query, s.channels, s.channels, window.key.get(), key_row, key_row, weights, key_row);
    T inverse[kQueries];
    for (int64_t r = 0; r < count; ++r) {
      const int64_t t = window.inside[first + r];
      inverse[r] = exponentials(
          in.bias + (a * s.tokens() + t) * key_row, window.region.data(), window.masked,
          window.region[t], key_row, weights + r * key_row);
    }
    multiply(weights, key_row, s.tokens(), window.value.get(), value_row, value_row, sums, value_row);
    for (int64_t r = 0; r < count; ++r) {
      V* target = window.target[first + r] + a * s.channels;
      const T* sum = sums + r * value_row;
      for (int64_t c = 0; c < s.channels; ++c) target[c] = V(sum[c] * inverse[r]);
    }
  }
}

// (heads, tokens, tokens) -> (heads, tokens, padded(tokens))
template <typename T>
std::vector<T> padded_bias(const WindowAttentionSizes& s, const T* bias) {
  const int64_t tokens = s.tokens(), row = padded<T>(tokens);
  std::vector<T> result(s.heads * tokens * row, -std::numeric_limits<T>::infinity());
  for (int64_t i = 0; i < s.heads * tokens; ++i) {
    std::copy_n(bias + i * tokens, tokens, result.data() + i * row);
  }
  return result;
}

template <typename V, typename T>
void forward(
    const WindowAttentionSizes& s,
    T scale,
    const Tensor& qkv,
    const Tensor& padding,
    const Tensor& bias,
    Tensor& output) {
  const std::vector<T> table = padded_bias(s, bias.const_data_ptr<T>());
  const Inputs<V, T> in = {
      s, scale, qkv.const_data_ptr<V>(), padding.const_data_ptr<V>(), table.data()};
  V* target = output.mutable_data_ptr<V>();
  const int64_t work = 2 * s.tokens() * s.tokens() * s.heads * s.channels;
  torch::stable::parallel_for(
      0, s.batch * s.rows() * s.columns(), grain(work), [&](int64_t begin, int64_t end) {
        Window<V, T> window(s);
        for (int64_t number = begin; number < end; ++number) {
          place(in, number, target, window);
          for (int64_t a = 0; a < s.heads; ++a) attend(in, a, window);
        }
      });
}

Tensor run(const WindowAttentionArguments& a, const WindowAttentionSizes& s) {
  const Tensor qkv = torch::stable::contiguous(a.qkv);
  const Tensor padding = torch::stable::contiguous(a.padding);
  const Tensor bias = torch::stable::contiguous(a.bias);
  Tensor output = torch::stable::new_empty(a.qkv, s.output());
  for_value_type(a.qkv.scalar_type(), [&](auto zero) {
    using V = decltype(zero);
    using T = std::conditional_t<std::is_same_v<V, double>, double, float>;
    forward<V, T>(s, static_cast<T>(a.scale), qkv, padding, bias, output);
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("window_attention", TORCH_BOX(&WindowAttention::forward<run>));
}

}  // namespace segcore
