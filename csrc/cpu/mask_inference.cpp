#include "../common/mask_inference.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <mutex>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../common/dispatch.h"
#include "../common/unroll.h"
#include "divide.h"
#include "grain.h"
#include "index_range.h"
#include "lanes.h"
#include "row_resize.h"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace segcore {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Neighboring pixels of a row, for which the values of all masks lie together in memory.
constexpr int64_t kPanel = 32;
// Classes that a matrix product sums in registers, for the pixels of a panel.
constexpr int64_t kClassBlock = 7;

// Largest columns and rows of a tile, and values of all masks in it, for the second-level cache.
constexpr int64_t kTileColumns = 256, kTileRows = 32, kTileValues = 1 << 18;

SEGCORE_INLINE double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
SEGCORE_INLINE float sigmoid(float x) {
  constexpr float kSmallest = -88.0f;
  return x < kSmallest ? 0.0f : 1 / (1 + exp_of_negative(-x));
}

template <typename T>
SEGCORE_TARGET_CLONES void apply_sigmoid(const T* logits, int64_t count, T* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = sigmoid(logits[i]);
}

// What a row adds to a measured mask.
template <typename T>
struct RowMeasure {
  T sum;
  int64_t area;
};

// Writes which pixels are above the threshold, marks their columns, and sums their values.
template <typename T>
SEGCORE_TARGET_CLONES RowMeasure<T> measure_row(
    const T* compared,
    T threshold,
    const T* values,
    int64_t count,
    uint8_t* inside,
    uint8_t* columns) {
  T sum = 0;
  int32_t area = 0;
#pragma omp simd reduction(+ : sum, area)
  for (int64_t i = 0; i < count; ++i) {
    const bool above = compared[i] > threshold;
    sum += above ? values[i] : 0;
    area += above;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t above = compared[i] > threshold;
    inside[i] = above;
    columns[i] |= above;
  }
  return {sum, area};
}

// Gives each pixel to the candidate of the largest score times value: code 2 * candidate + whether
// the pixel is inside of it. Of NaNs the first wins.
template <typename T>
SEGCORE_TARGET_CLONES void merge_panel(
    const T* panel,
    const int64_t* candidates,
    const T* scores,
    int64_t count,
    T threshold,
    int64_t* areas,
    int32_t* codes) {
  T best[kPanel];
  std::fill_n(best, kPanel, -std::numeric_limits<T>::infinity());
  std::fill_n(codes, kPanel, 0);
  for (int64_t j = 0; j < count; ++j) {
    const T* values = panel + candidates[j] * kPanel;
    const T score = scores[j];
    const int32_t code = static_cast<int32_t>(2 * j);
    int32_t area = 0;
#pragma omp simd reduction(+ : area)
    for (int64_t i = 0; i < kPanel; ++i) {
      const T value = values[i];
      const int32_t inside = value >= threshold;
      const T weighted = (value > 1 ? 1 : value) * score;
      const bool wins = !(weighted <= best[i]) & (best[i] == best[i]);
      best[i] = wins ? weighted : best[i];
      codes[i] = wins ? code + inside : codes[i];
      area += inside;
    }
    areas[j] += area;
  }
}

template <typename T>
SEGCORE_TARGET_CLONES void limit_to_one(T* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] = values[i] > 1 ? 1 : values[i];
}

// Class weights times the values of the panels of a row, for two vectors V of pixels at a time. Weights
// come in blocks of kClassBlock classes, mask by mask. Classes are far apart in memory, so that a block
// writes the whole row before the next one is begun.
template <typename V, typename T>
SEGCORE_TARGET_CLONES void class_scores(
    const T* panels,
    const T* weights,
    int64_t masks,
    int64_t classes,
    int64_t stride,
    int64_t pixels,
    T* scores) {
  constexpr int64_t kLength = sizeof(V) / sizeof(T), kPart = 2 * kLength;
  static_assert(kPanel % kPart == 0);
  for (int64_t first = 0; first < classes; first += kClassBlock) {
    const int64_t block = std::min(kClassBlock, classes - first);
    for (int64_t x = 0; x < pixels; x += kPart) {
      const T* values = panels + x / kPanel * kPanel * masks + x % kPanel;
      const T* weight = weights + first * masks;
      V sums[kClassBlock][2] = {};
      for (int64_t i = 0; i < masks; ++i, values += kPanel, weight += kClassBlock) {
        const V left = vector_at<V>(values), right = vector_at<V>(values + kLength);
        SEGCORE_UNROLL
        for (int64_t k = 0; k < kClassBlock; ++k) {
          sums[k][0] += weight[k] * left;
          sums[k][1] += weight[k] * right;
        }
      }
      const size_t bytes = std::min(kPart, pixels - x) * sizeof(T);
      for (int64_t k = 0; k < block; ++k) {
        std::memcpy(scores + (first + k) * stride + x, sums[k], bytes);
      }
    }
  }
}

// The weights (classes, masks) in blocks, the last one with zeros.
template <typename T>
std::vector<T> blocks_of_weights(const T* weights, int64_t classes, int64_t masks) {
  const int64_t blocks = divide_up(classes, kClassBlock);
  std::vector<T> packed(blocks * masks * kClassBlock);
  for (int64_t k = 0; k < classes; ++k) {
    T* block = packed.data() + k / kClassBlock * masks * kClassBlock + k % kClassBlock;
    for (int64_t i = 0; i < masks; ++i) block[i * kClassBlock] = weights[k * masks + i];
  }
  return packed;
}

// First and last row and column of the pixels of a mask; of none: first after last.
struct Extent {
  int64_t left = INT32_MAX, top = INT32_MAX, right = -1, bottom = -1;

  void include(const Extent& other) {
    left = std::min(left, other.left);
    top = std::min(top, other.top);
    right = std::max(right, other.right);
    bottom = std::max(bottom, other.bottom);
  }
};

struct Tile {
  int64_t left, top, right, bottom;

  int64_t columns() const { return right - left; }
};

struct Tiling {
  int64_t height, width, rows, columns, across, count;

  Tiling(int64_t map_height, int64_t map_width, int64_t masks)
      : height(map_height), width(map_width) {
    const int64_t pieces = std::max<int64_t>(1, divide_up(width, kTileColumns));
    columns = round_up(divide_up(width, pieces), kPanel);
    columns = std::max(columns, kPanel);
    rows = kTileValues / std::max<int64_t>(1, masks * columns);
    rows = std::min(std::max<int64_t>(1, rows), kTileRows);
    across = divide_up(width, columns);
    count = across * divide_up(height, rows);
  }

  Tile operator[](int64_t index) const {
    const int64_t left = index % across * columns, top = index / across * rows;
    return {left, top, std::min(left + columns, width), std::min(top + rows, height)};
  }
};

// Pointers to the contiguous arguments and results.
template <typename T>
struct MaskInferenceData {
  const MaskInferenceSizes& sizes;
  const T* masks;
  int64_t map_height, map_width;  // of a mask
  bool sigmoid, of_logits;
  const T* weights;  // blocks of classes
  const int64_t* candidates;
  const T* candidate_scores;
  T candidate_threshold, measured_threshold;
  const int64_t* measured_index;  // of each mask among the measured ones, or -1
  T* scores;
  int32_t* best;
  uint8_t* binary;
};

// Sums of integers, which do not depend on the order of the tiles.
struct Counts {
  std::vector<int64_t> won, candidate_areas, measured_areas;
  std::vector<Extent> extents;

  explicit Counts(const MaskInferenceSizes& s)
      : won(2 * s.candidates), candidate_areas(s.candidates), measured_areas(s.measured),
        extents(s.measured) {}

  void add(const Counts& other) {
    const auto add_all = [](std::vector<int64_t>& sums, const std::vector<int64_t>& values) {
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += values[i];
    };
    add_all(won, other.won);
    add_all(candidate_areas, other.candidate_areas);
    add_all(measured_areas, other.measured_areas);
    for (size_t i = 0; i < extents.size(); ++i) extents[i].include(other.extents[i]);
  }
};

// Works on one tile after the other.
template <typename T>
class TileWorker {
 public:
  TileWorker(
      const MaskInferenceData<T>& data, const std::vector<ResizeAxes<T>>& axes,
      const Tiling& tiling)
      : counts(data.sizes), d_(data), axes_(axes),
        keeps_values_(data.sizes.candidates > 0 || data.sizes.classes > 0),
        panels_(keeps_values_ ? tiling.rows * tiling.columns * data.sizes.masks : 0),
        row_(tiling.columns), columns_(tiling.columns) {}

  // `sums` are those of the values inside of each measured mask.
  void run(const Tile& tile, double* sums) {
    ResizedRows<T> rows(axes_, tile.left, tile.right);
    for (int64_t i = 0; i < d_.sizes.masks; ++i) {
      rows.start(d_.masks + i * d_.map_height * d_.map_width, d_.map_width);
      compute_values(tile, rows, i, sums);
    }
    if (!keeps_values_) return;
    T* panel = panels_.data();
    for (int64_t y = tile.top; y < tile.bottom; ++y) {
      T* row = panel;
      for (int64_t x = tile.left; x < tile.right; x += kPanel, panel += panel_size()) {
        if (d_.sizes.candidates) merge(panel, y, x, std::min(kPanel, tile.right - x));
      }
      if (d_.sizes.classes) sum_classes(row, panel - row, y, tile);
    }
  }

  Counts counts;

 private:
  int64_t panel_size() const { return d_.sizes.masks * kPanel; }

  // Values of a mask in all panels of a tile.
  void compute_values(const Tile& tile, ResizedRows<T>& rows, int64_t mask, double* sums) {
    const int64_t measured = d_.measured_index[mask];
    Extent extent;
    std::fill(columns_.begin(), columns_.end(), 0);
    T* panel = panels_.data() + mask * kPanel;
    for (int64_t y = tile.top; y < tile.bottom; ++y) {
      const T* logits = rows.row(y);
      const T* values = logits;
      if (d_.sigmoid) {
        apply_sigmoid(logits, tile.columns(), row_.data());
        values = row_.data();
      }
      if (measured >= 0) {
        const int64_t pixel = (measured * d_.sizes.height + y) * d_.sizes.width + tile.left;
        const RowMeasure<T> row = measure_row(
            d_.of_logits ? logits : values, d_.measured_threshold, values, tile.columns(),
            d_.binary + pixel, columns_.data());
        sums[measured] += row.sum;
        counts.measured_areas[measured] += row.area;
        if (row.area) extent.include({INT32_MAX, y, -1, y});
      }
      if (keeps_values_) {
        for (int64_t x = 0; x < tile.columns(); x += kPanel, panel += panel_size()) {
          const int64_t pixels = std::min(kPanel, tile.columns() - x);
          std::copy_n(values + x, pixels, panel);
          // Beyond the row they are inside of no mask.
          std::fill(panel + pixels, panel + kPanel, std::numeric_limits<T>::quiet_NaN());
        }
      }
    }
    if (extent.bottom < 0) return;
    const auto is_set = [](uint8_t column) { return column != 0; };
    const auto first = std::find_if(columns_.begin(), columns_.end(), is_set);
    const auto last = std::find_if(columns_.rbegin(), columns_.rend(), is_set);
    extent.left = tile.left + (first - columns_.begin());
    extent.right = tile.left + (columns_.rend() - last) - 1;
    counts.extents[measured].include(extent);
  }

  void merge(const T* panel, int64_t y, int64_t x, int64_t pixels) {
    int32_t codes[kPanel];
    merge_panel(
        panel, d_.candidates, d_.candidate_scores, d_.sizes.candidates, d_.candidate_threshold,
        counts.candidate_areas.data(), codes);
    int32_t* best = d_.best + y * d_.sizes.width + x;
    for (int64_t i = 0; i < pixels; ++i) {
      ++counts.won[codes[i]];
      best[i] = codes[i] % 2 ? codes[i] / 2 + 1 : 0;
    }
  }

  void sum_classes(T* panels, int64_t count, int64_t y, const Tile& tile) {
    const MaskInferenceSizes& s = d_.sizes;
    if (!d_.sigmoid) limit_to_one(panels, count);
    const auto sum = has_wide_registers() ? class_scores<Wide<T>, T> : class_scores<Narrow<T>, T>;
    sum(panels, d_.weights, s.masks, s.classes, s.height * s.width, tile.columns(),
        d_.scores + y * s.width + tile.left);
  }

  const MaskInferenceData<T>& d_;
  const std::vector<ResizeAxes<T>>& axes_;
  bool keeps_values_;
  std::vector<T> panels_, row_;
  std::vector<uint8_t> columns_;
};

// Fetches the pages of new memory all at once, where the system has it: one by one, as each is first
// written, takes half as long again.
void populate([[maybe_unused]] void* data, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_POPULATE_WRITE
  constexpr int64_t kPage = 4096, kPagesOfThread = 4096;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const int64_t before = static_cast<int64_t>(-address % kPage);  // to the first whole page
  char* pages = static_cast<char*>(data) + before;
  torch::stable::parallel_for(
      0, std::max<int64_t>(0, bytes - before) / kPage, kPagesOfThread,
      [&](int64_t begin, int64_t end) {
        madvise(pages + begin * kPage, (end - begin) * kPage, MADV_POPULATE_WRITE);
      });
#endif
}

// Position of each mask among the measured ones, or -1.
std::vector<int64_t> measured_index(const int64_t* measured, int64_t count, int64_t masks) {
  check_index_range("measured", measured, count, 0, masks);
  std::vector<int64_t> index(masks, -1);
  for (int64_t i = 0; i < count; ++i) {
    STD_TORCH_CHECK(
        index[measured[i]] < 0, "measured: expected each mask once, got ", measured[i], " twice");
    index[measured[i]] = i;
  }
  return index;
}

using MaskInferenceResults = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

template <typename T>
MaskInferenceResults infer(const MaskInferenceArguments& a, const MaskInferenceSizes& s) {
  const Tensor masks = torch::stable::contiguous(a.masks);
  const Tensor class_weights = torch::stable::contiguous(a.class_weights);
  const Tensor candidates = torch::stable::contiguous(a.candidates);
  const Tensor candidate_scores = torch::stable::contiguous(a.candidate_scores);
  const Tensor measured = torch::stable::contiguous(a.measured);
  const int64_t* candidate = candidates.const_data_ptr<int64_t>();
  check_index_range("candidates", candidate, s.candidates, 0, s.masks);
  const std::vector<int64_t> index =
      measured_index(measured.const_data_ptr<int64_t>(), s.measured, s.masks);
  const std::vector<T> weights =
      blocks_of_weights(class_weights.const_data_ptr<T>(), s.classes, s.masks);

  const auto empty = [&](const std::vector<int64_t>& size, ScalarType type) {
    return torch::stable::new_empty(
        masks, torch::headeronly::IntHeaderOnlyArrayRef(size.data(), size.size()), type);
  };
  Tensor scores = empty({s.classes, s.height, s.width}, masks.scalar_type());
  populate(scores.mutable_data_ptr<T>(), s.classes * s.height * s.width * sizeof(T));
  Tensor best = torch::stable::new_zeros(masks, {s.height, s.width}, ScalarType::Int);
  Tensor won = empty({s.candidates, 3}, ScalarType::Long);
  Tensor binary = empty({s.measured, s.height, s.width}, ScalarType::Bool);
  Tensor sums = empty({s.measured}, masks.scalar_type());
  Tensor areas = empty({s.measured}, ScalarType::Long);
  Tensor boxes = empty({s.measured, 4}, ScalarType::Float);

  const MaskInferenceData<T> data = {
      s, masks.const_data_ptr<T>(), masks.size(1), masks.size(2), a.sigmoid, a.of_logits,
      weights.data(), candidate, candidate_scores.const_data_ptr<T>(),
      static_cast<T>(a.candidate_threshold), static_cast<T>(a.measured_threshold), index.data(),
      scores.mutable_data_ptr<T>(), best.mutable_data_ptr<int32_t>(),
      reinterpret_cast<uint8_t*>(binary.mutable_data_ptr<bool>())};
  const std::vector<ResizeAxes<T>> axes = resize_axes<T>(s.steps);
  const Tiling tiling(s.height, s.width, s.masks);
  Counts counts(s);
  std::mutex mutex;
  std::vector<double> tile_sums(tiling.count * s.measured);
  const int64_t work = tiling.rows * tiling.columns * s.masks * std::max<int64_t>(8, s.classes);
  torch::stable::parallel_for(0, tiling.count, grain(work), [&](int64_t begin, int64_t end) {
    TileWorker<T> worker(data, axes, tiling);
    for (int64_t i = begin; i < end; ++i) {
      worker.run(tiling[i], tile_sums.data() + i * s.measured);
    }
    const std::lock_guard<std::mutex> lock(mutex);
    counts.add(worker.counts);
  });

  int64_t* won_data = won.mutable_data_ptr<int64_t>();
  for (int64_t j = 0; j < s.candidates; ++j) {
    won_data[3 * j] = counts.won[2 * j];
    won_data[3 * j + 1] = counts.won[2 * j + 1];
    won_data[3 * j + 2] = counts.candidate_areas[j];
  }
  std::copy(
      counts.measured_areas.begin(), counts.measured_areas.end(),
      areas.mutable_data_ptr<int64_t>());
  for (int64_t i = 0; i < s.measured; ++i) {
    double sum = 0;
    for (int64_t tile = 0; tile < tiling.count; ++tile) sum += tile_sums[tile * s.measured + i];
    sums.mutable_data_ptr<T>()[i] = static_cast<T>(sum);
    const Extent& e = counts.extents[i];
    const bool empty_mask = e.bottom < 0;
    const int64_t box[4] = {e.left, e.top, e.right + 1, e.bottom + 1};
    for (int64_t side = 0; side < 4; ++side) {
      boxes.mutable_data_ptr<float>()[4 * i + side] =
          empty_mask ? 0.0f : static_cast<float>(box[side]);
    }
  }
  return {scores, best, won, binary, sums, areas, boxes};
}

MaskInferenceResults run(const MaskInferenceArguments& a, const MaskInferenceSizes& s) {
  return a.masks.scalar_type() == ScalarType::Double ? infer<double>(a, s) : infer<float>(a, s);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(segcore, CPU, library) {
  library.impl("mask_inference", TORCH_BOX(&MaskInference::forward<run>));
}

}  // namespace segcore
