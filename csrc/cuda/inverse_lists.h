#pragma once

#include <optional>

#include "inverse_lists.cuh"
#include "launch.h"
#include "aten.h"

namespace segcore {

// The tensors of what is sorted into bins.
struct __attribute__((visibility("hidden"))) Bins {
  torch::stable::Tensor first, place;

  InverseLists lists() const { return {numbers<int64_t>(first), numbers<int64_t>(place)}; }
};

// Sorts places by the bin that `keys` has for each; those with a key of `bins` or more are left out.
inline Bins sort_into_bins(const torch::stable::Tensor& keys, int64_t bins) {
  const auto [sorted, place] = stable_sort(keys);
  torch::stable::Tensor first = torch::stable::new_empty(keys, {bins + 1});
  launch(
      first_of_bins_kernel, bins + 1, current_stream(keys), numbers<int64_t>(sorted),
      keys.numel(), bins, numbers<int64_t>(first));
  return {first, place};
}

// The inverse of contiguous int64 lists (batch, ...) of tokens from 0 to tokens - 1; `mask` says which
// places count.
inline Bins invert(
    const torch::stable::Tensor& lists,
    const std::optional<torch::stable::Tensor>& mask,
    int64_t tokens) {
  const int64_t batch = lists.size(0), count = lists.numel();
  torch::stable::Tensor keys = torch::stable::new_empty(lists, {count});
  launch(
      token_of_places_kernel, count, current_stream(lists), numbers<int64_t>(lists),
      mask ? numbers<bool>(*mask) : nullptr, batch, batch > 0 ? count / batch : 0, tokens,
      numbers<int64_t>(keys));
  return sort_into_bins(keys, batch * tokens);
}

}  // namespace segcore
