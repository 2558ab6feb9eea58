#include "../common/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "../common/rows.h"
#include "divide.h"
#include "grain.h"
#include "lanes.h"
#include "product.h"
#include "scratch.h"
#include "transpose.h"

namespace segcore {
namespace {

using torch::stable::Tensor;

// Keys at a time, at most: with their values, and the logits of some queries, they stay in the cache.
constexpr int64_t kKeys = 256;

// Columns of logits of so many keys: what products take at a time.
template <typename T>
constexpr int64_t columns_of(int64_t keys) {
  return round_up(keys, 4 * kWide<T>);
}

// Queries at a time, at most: they share the copies of keys and values.
constexpr int64_t kQueries = 40 * kProductRows;

template <typename V>
struct Inputs {
  AttentionSizes sizes;
  Rows<const V> query, key, value;
  Rows<const uint8_t> mask;  // no data: every query sees every key
  double scale;
};

// Some queries of some heads of an image.
struct Task {
  int64_t image, first_head, heads, first_query, queries;
};

// Scratch memory of a thread.
template <typename T>
struct Block {
  Scratch<T> query;    // (heads, queries, channels), scaled
  Scratch<T> key;      // (channels, columns)
  Scratch<T> value;    // (kKeys, padded(channels))
  Scratch<T> weights;  // (kProductRows, columns)
  Scratch<T> product;  // (kProductRows, padded(channels))
  Scratch<T> sums;     // (heads, queries, padded(channels)) of weighted values
  Scratch<T> largest;  // (heads, queries) logit
  Scratch<T> total;    // (heads, queries, kNarrow) weight

  Block(const AttentionSizes& s, int64_t heads, int64_t queries)
      : query(make_zeroed_scratch<T>((heads * queries + kProductRows) * s.channels)),
        key(make_zeroed_scratch<T>(s.channels * kKeys)),
        value(make_zeroed_scratch<T>(kKeys * padded<T>(s.channels))),
        weights(make_scratch<T>(kProductRows * kKeys)),
        product(make_scratch<T>(kProductRows * padded<T>(s.channels))),
        sums(make_scratch<T>(heads * queries * padded<T>(s.channels))),
        largest(make_scratch<T>(heads * queries)),
        total(make_scratch<T>(heads * queries * kNarrow<T>)) {}
};

// Loads `count` keys and values of a head from `first` on.
template <typename V, typename T>
SEGCORE_INLINE void load(
    const Inputs<V>& in, int64_t image, int64_t head, int64_t first, int64_t count,
    Block<T>& block) {
  const int64_t channels = in.sizes.channels, row = in.key.token, columns = columns_of<T>(count);
  const V* key = in.key.row(image, first, head);
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes, key += kLanes * row) {
    const V* keys[kLanes];
    for (int i = 0; i < kLanes; ++i) keys[i] = key + i * row;
    int64_t c = 0;
    for (; c + kLanes <= channels; c += kLanes) {
      transpose_block(keys, c, block.key.get() + c * columns + j, columns);
    }
    for (; c < channels; ++c) {
      for (int i = 0; i < kLanes; ++i) block.key[c * columns + j + i] = T(keys[i][c]);
    }
  }
  for (; j < count; ++j, key += row) {
    for (int64_t c = 0; c < channels; ++c) block.key[c * columns + j] = T(key[c]);
  }
  for (j = 0; j < count; ++j) {
    copy_row(
        in.value.row(image, first + j, head), channels, T(1),
        block.value.get() + j * padded<T>(channels));
  }
}

template <typename T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();

// The largest of numbers that fill columns.
template <typename T>
SEGCORE_INLINE T largest_of(const T* numbers, int64_t columns) {
  Narrow<T> top[2];  // a comparison need not wait for the one before
  for (int v = 0; v < 2; ++v) top[v] = vector_at<Narrow<T>>(numbers + v * kNarrow<T>);
  for (int64_t j = 2 * kNarrow<T>; j < columns; j += 2 * kNarrow<T>) {
    for (int v = 0; v < 2; ++v) {
      const Narrow<T>& next = vector_at<Narrow<T>>(numbers + j + v * kNarrow<T>);
      top[v] = top[v] < next ? next : top[v];
    }
  }
  T lanes[kNarrow<T>];
  vector_at<Narrow<T>>(lanes) = top[0] < top[1] ? top[1] : top[0];
  for (int half = kNarrow<T> / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] = lanes[i] < lanes[i + half] ? lanes[i + half] : lanes[i];
  }
  return lanes[0];
}

// Logits of a query -> weights relative to that of the largest logit so far; returns the factor of the
// weights before. `total` has the sum of the weights lane by lane.
template <typename T>
SEGCORE_INLINE T
exponentials(const uint8_t* mask, int64_t count, T* weights, T& largest_so_far, T* total) {
  const int64_t columns = columns_of<T>(count);
  for (int64_t j = count; j < columns; ++j) weights[j] = kNothing<T>;
  if (mask != nullptr) {
#pragma omp simd
    for (int64_t j = 0; j < count; ++j) {
      const int sees = mask[j];  // as wide as a logit
      weights[j] = sees ? weights[j] : kNothing<T>;
    }
  }
  const T largest_here = largest_of(weights, columns);
  const T largest = largest_so_far < largest_here ? largest_here : largest_so_far;
  const T shift = largest == kNothing<T> ? T(0) : largest;
  const T factor = exp_of_negative(largest_so_far - shift);
  Narrow<T> sum = factor * vector_at<Narrow<T>>(total);
  for (int64_t j = 0; j < columns; j += kNarrow<T>) {
#pragma omp simd
    for (int i = 0; i < kNarrow<T>; ++i) weights[j + i] = exp_of_negative(weights[j + i] - shift);
    sum += vector_at<Narrow<T>>(weights + j);
  }
  vector_at<Narrow<T>>(total) = sum;
  largest_so_far = largest;
  return factor;
}

// A function of its own: within a longer one GCC moves sums from register to register.
template <typename T>
SEGCORE_TARGET_CLONES void multiply_rows(
    const T* rows, int64_t row, int64_t depth, const T* matrix, int64_t columns, T* products) {
  multiply(rows, row, depth, matrix, columns, columns, products, columns);
}

// Whether one of `rows` queries sees one of `count` keys.
inline bool sees_any(const uint8_t* mask, int64_t row, int64_t rows, int64_t count) {
  for (int64_t r = 0; r < rows; ++r, mask += row) {
    if (std::memchr(mask, 1, count) != nullptr) return true;
  }
  return false;
}

// Adds what the queries of a head find among `count` keys from `first` on.
template <typename V, typename T>
SEGCORE_TARGET_CLONES void attend(
    const Inputs<V>& in, const Task& task, int64_t head, int64_t first, int64_t count,
    Block<T>& block) {
  const int64_t channels = in.sizes.channels, value_row = padded<T>(channels);
  const int64_t columns = columns_of<T>(count);
  load(in, task.image, task.first_head + head, first, count, block);
  T *weights = block.weights.get(), *product = block.product.get();
  for (int64_t i = 0; i < task.queries; i += kProductRows) {
    const int64_t rows = std::min<int64_t>(kProductRows, task.queries - i);
    const int64_t place = head * task.queries + i;
    const uint8_t* mask = nullptr;
    if (in.mask.data != nullptr) {
      mask = in.mask.row(task.image, task.first_query + i, 0) + first;
      if (!sees_any(mask, in.mask.token, rows, count)) continue;
    }
    multiply_rows(
        block.query.get() + place * channels, channels, channels, block.key.get(), columns,
        weights);
    T factor[kProductRows];
    for (int64_t r = 0; r < rows; ++r) {
      factor[r] = exponentials(
          mask == nullptr ? nullptr : mask + r * in.mask.token, count, weights + r * columns,
          block.largest[place + r], block.total.get() + (place + r) * kNarrow<T>);
    }
    multiply_rows(weights, columns, count, block.value.get(), value_row, product);
    for (int64_t r = 0; r < rows; ++r) {
      T* sums = block.sums.get() + (place + r) * value_row;
#pragma omp simd
      for (int64_t c = 0; c < value_row; ++c) {
        sums[c] = factor[r] * sums[c] + product[r * value_row + c];
      }
    }
  }
}

template <typename V, typename T>
SEGCORE_TARGET_CLONES void start(const Inputs<V>& in, const Task& task, Block<T>& block) {
  const int64_t channels = in.sizes.channels;
  T* query = block.query.get();
  for (int64_t a = 0; a < task.heads; ++a) {
    for (int64_t i = 0; i < task.queries; ++i, query += channels) {
      copy_row(
          in.query.row(task.image, task.first_query + i, task.first_head + a), channels,
          T(in.scale), query);
    }
  }
  const int64_t count = task.heads * task.queries;
  std::fill_n(block.sums.get(), count * padded<T>(channels), T(0));
  std::fill_n(block.total.get(), count * kNarrow<T>, T(0));
  std::fill_n(block.largest.get(), count, kNothing<T>);
}

template <typename V, typename T>
SEGCORE_TARGET_CLONES void finish(
    const Inputs<V>& in, const Task& task, const Block<T>& block, V* output) {
  const AttentionSizes& s = in.sizes;
  for (int64_t a = 0; a < task.heads; ++a) {
    for (int64_t i = 0; i < task.queries; ++i) {
      const int64_t place = a * task.queries + i;
      // A query that sees no key gets zeros, as from PyTorch.
      T total = 0;
      for (int j = 0; j < kNarrow<T>; ++j) total += block.total[place * kNarrow<T> + j];
      const T inverse = total == 0 ? T(0) : 1 / total;
      const T* sums = block.sums.get() + place * padded<T>(s.channels);
      V* target = output +
          ((task.image * s.queries + task.first_query + i) * s.heads + task.first_head + a) *
              s.channels;
      for (int64_t c = 0; c < s.channels; ++c) target[c] = V(sums[c] * inverse);
    }
  }
}

template <typename V, typename T>
void forward(const Inputs<V>& in, V* output) {
  const AttentionSizes& s = in.sizes;
  // A thread reads a row of keys once for as many heads as it has.
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t heads = divide_up(s.heads, std::min(s.heads, divide_up(threads, s.batch)));
  const int64_t head_parts = divide_up(s.heads, heads);
  const int64_t query_parts =
      std::max(divide_up(s.queries, kQueries), divide_up(threads, s.batch * head_parts));
  const int64_t queries = round_up(divide_up(s.queries, query_parts), kProductRows);
  const int64_t tasks = divide_up(s.queries, queries);
  torch::stable::parallel_for(
      0, s.batch * head_parts * tasks, grain(2 * heads * queries * s.keys * s.channels),
      [&](int64_t begin, int64_t end) {
        Block<T> block(s, heads, queries);
        for (int64_t i = begin; i < end; ++i) {
          const int64_t first_head = i / tasks % head_parts * heads, first = i % tasks * queries;
          const Task task = {
              i / (tasks * head_parts), first_head, std::min(heads, s.heads - first_head), first,
              std::min(queries, s.queries - first)};
          start(in, task, block);
          for (int64_t key = 0; key < s.keys; key += kKeys) {
            for (int64_t a = 0; a < task.heads; ++a) {
              attend(in, task, a, key, std::min(kKeys, s.keys - key), block);
            }
          }
          finish(in, task, block, output);
        }
      });
}

Tensor run(const AttentionArguments& a, const AttentionSizes& s) {
  const Tensor query = with_rows(a.query), key = with_rows(a.key), value = with_rows(a.value);
  std::optional<Tensor> mask;
  if (a.mask) mask = with_rows(*a.mask);
  Tensor output = torch::stable::new_empty(a.query, s.output());
  if (s.batch * s.queries == 0) return output;
  for_value_type(a.query.scalar_type(), [&](auto zero) {
    using V = decltype(zero);
    using T = std::conditional_t<std::is_same_v<V, double>, double, float>;
    const Inputs<V> in = {
        s, rows_of<V>(query, s.channels), rows_of<V>(key, s.channels),
        rows_of<V>(value, s.channels), mask ? rows_of<uint8_t>(*mask, 0) : Rows<const uint8_t>{},
        a.scale};
    forward<V, T>(in, output.mutable_data_ptr<V>());
  });
  return output;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("attention", TORCH_BOX(&Attention::forward<run>));
}

}  // namespace segcore
