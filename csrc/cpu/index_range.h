#pragma once

#include <algorithm>
#include <cstdint>

#include <torch/headeronly/util/Exception.h>

namespace segcore {

// Refuses indices that are not from `first` to `end` - 1.
inline void check_index_range(
    const char* name, const int64_t* index, int64_t count, int64_t first, int64_t end) {
  int64_t lowest = first, highest = first - 1;
  for (int64_t i = 0; i < count; ++i) {
    lowest = std::min(lowest, index[i]);
    highest = std::max(highest, index[i]);
  }
  STD_TORCH_CHECK(
      first <= lowest && highest < end,
      name, ": expected indices from ", first, " to ", end - 1, ", got ",
      lowest < first ? lowest : highest);
}

}  // namespace segcore
