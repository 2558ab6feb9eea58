// Where each token is listed: turns sums that would scatter into sums that gather, which need no
// atomics and always add in the same order.
#pragma once

#include <cstdint>
#include <vector>

#include <torch/csrc/stable/ops.h>

namespace segcore {

// Of one image: the places in a list that hold token j are place[first[j]] up to place[first[j + 1]],
// ascending.
struct InverseLists {
  std::vector<int64_t> first, place;

  // `mask` (may be null): places that count.
  InverseLists(const int64_t* list, const bool* mask, int64_t size, int64_t tokens)
      : first(tokens + 1) {
    for (int64_t i = 0; i < size; ++i) {
      if (mask == nullptr || mask[i]) ++first[list[i] + 1];
    }
    for (int64_t j = 0; j < tokens; ++j) first[j + 1] += first[j];
    place.resize(first[tokens]);
    std::vector<int64_t> next(first.begin(), first.end() - 1);
    for (int64_t i = 0; i < size; ++i) {
      if (mask == nullptr || mask[i]) place[next[list[i]]++] = i;
    }
  }

  int64_t count(int64_t token) const { return first[token + 1] - first[token]; }
  const int64_t* places(int64_t token) const { return place.data() + first[token]; }
};

// Those of all images; `size` places each.
inline std::vector<InverseLists> invert(
    const int64_t* lists, const bool* mask, int64_t batch, int64_t size, int64_t tokens) {
  std::vector<InverseLists> inverse(batch, InverseLists(nullptr, nullptr, 0, 0));
  torch::stable::parallel_for(0, batch, 1, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const bool* of_image = mask == nullptr ? nullptr : mask + n * size;
      inverse[n] = InverseLists(lists + n * size, of_image, size, tokens);
    }
  });
  return inverse;
}

}  // namespace segcore
