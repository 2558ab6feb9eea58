// Inverse of lists of tokens: turns sums that would scatter into sums that gather, which need no
// atomics and always add in the same order.
#pragma once

#include <cstdint>

#include "warp.cuh"

namespace segcore {

// Compressed rows: the entries of all lists, one image after the other, that hold token j of the whole
// batch are entries[offsets[j]] up to entries[offsets[j + 1]], ascending.
struct InverseLists {
  const int64_t *offsets, *entries;
};

// keys[i]: the token of the whole batch in entry i; one beyond the last token where the entry does not
// count (by `mask`, which may be null) or is out of range. `size` entries an image.
static __global__ void entry_tokens_kernel(
    const int64_t* list,
    const bool* mask,
    int64_t batch,
    int64_t size,
    int64_t tokens,
    int64_t* keys) {
  const int64_t i = thread_index();
  if (i >= batch * size) return;
  const int64_t token = list[i];
  const bool counts = (mask == nullptr || mask[i]) && token >= 0 && token < tokens;
  keys[i] = counts ? i / size * tokens + token : batch * tokens;
}

// offsets[j]: how many of the ascending keys are less than j, for j up to `bins`.
static __global__ void bin_offsets_kernel(
    const int64_t* keys, int64_t count, int64_t bins, int64_t* offsets) {
  const int64_t j = thread_index();
  if (j > bins) return;
  int64_t low = 0, high = count;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (keys[middle] < j) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  offsets[j] = low;
}

}  // namespace segcore
