#pragma once

#include <optional>

#include "inverse_lists.cuh"
#include "launch.h"
#include "aten.h"

namespace segcore {

// Entries sorted into bins, in compressed rows.
struct __attribute__((visibility("hidden"))) Bins {
  torch::stable::Tensor offsets, entries;

  InverseLists lists() const { return {data_ptr<int64_t>(offsets), data_ptr<int64_t>(entries)}; }
};

// Sorts entries by the bin that `keys` has for each; those with a key of `bins` or more are left out.
inline Bins sort_into_bins(const torch::stable::Tensor& keys, int64_t bins) {
  const auto [sorted, entries] = stable_sort(keys);
  torch::stable::Tensor offsets = torch::stable::new_empty(keys, {bins + 1});
  launch(
      bin_offsets_kernel, bins + 1, current_stream(keys), data_ptr<int64_t>(sorted), keys.numel(),
      bins, data_ptr<int64_t>(offsets));
  return {offsets, entries};
}

// The inverse of contiguous int64 lists (batch, ...) of tokens from 0 to tokens - 1; `mask` marks the
// entries that count.
inline Bins invert(
    const torch::stable::Tensor& lists,
    const std::optional<torch::stable::Tensor>& mask,
    int64_t tokens) {
  const int64_t batch = lists.size(0), count = lists.numel();
  torch::stable::Tensor keys = torch::stable::new_empty(lists, {count});
  launch(
      entry_tokens_kernel, count, current_stream(lists), data_ptr<int64_t>(lists),
      mask ? data_ptr<bool>(*mask) : nullptr, batch, batch > 0 ? count / batch : 0, tokens,
      data_ptr<int64_t>(keys));
  return sort_into_bins(keys, batch * tokens);
}

}  // namespace segcore
