#pragma once

#include <algorithm>
#include <cstdint>

#include <torch/headeronly/util/Exception.h>

namespace segcore {

// Refuses indices that are not from `first` to `end` - 1.
template <typename Index>
void check_index_range(
    const char* name, const Index* indices, int64_t count, int64_t first, int64_t end) {
  int64_t lowest = first, highest = first - 1;
  for (int64_t i = 0; i < count; ++i) {
    lowest = std::min<int64_t>(lowest, indices[i]);
    highest = std::max<int64_t>(highest, indices[i]);
  }
  STD_TORCH_CHECK(
      first <= lowest && highest < end,
      name, ": expected indices from ", first, " to ", end - 1, ", got ",
      lowest < first ? lowest : highest);
}

}  // namespace segcore
