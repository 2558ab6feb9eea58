// Inverse of lists of tokens: turns sums that would scatter into sums that gather, which need no
// atomics and always add in the same order.
#pragma once

#include <cstdint>
#include <vector>

#include <torch/csrc/stable/ops.h>

namespace segcore {

// Compressed rows of one image: the entries of a list that hold token j are entries[offsets[j]] up to
// entries[offsets[j + 1]], ascending.
struct InverseLists {
  std::vector<int64_t> offsets, entries;

  // `mask` (may be null): entries that count.
  InverseLists(const int64_t* list, const bool* mask, int64_t size, int64_t tokens)
      : offsets(tokens + 1) {
    for (int64_t i = 0; i < size; ++i) {
      if (mask == nullptr || mask[i]) ++offsets[list[i] + 1];
    }
    for (int64_t j = 0; j < tokens; ++j) offsets[j + 1] += offsets[j];
    entries.resize(offsets[tokens]);
    std::vector<int64_t> next(offsets.begin(), offsets.end() - 1);
    for (int64_t i = 0; i < size; ++i) {
      if (mask == nullptr || mask[i]) entries[next[list[i]]++] = i;
    }
  }

  int64_t count(int64_t token) const { return offsets[token + 1] - offsets[token]; }
  const int64_t* entries_of(int64_t token) const { return entries.data() + offsets[token]; }
};

// Those of all images; `size` entries each.
inline std::vector<InverseLists> invert(
    const int64_t* lists, const bool* mask, int64_t batch, int64_t size, int64_t tokens) {
  std::vector<InverseLists> inverse(batch, InverseLists(nullptr, nullptr, 0, 0));
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const bool* image_mask = mask == nullptr ? nullptr : mask + n * size;
      inverse[n] = InverseLists(lists + n * size, image_mask, size, tokens);
    }
  });
  return inverse;
}

}  // namespace segcore
