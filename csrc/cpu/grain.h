#pragma once

#include <algorithm>
#include <cstdint>

namespace segcore {

// Multiply-adds below which one more thread costs more than it brings.
constexpr int64_t kWorkPerThread = 1 << 16;

// The fewest items for a thread, of `work` multiply-adds each.
inline int64_t grain(int64_t work) {
  return std::max<int64_t>(1, kWorkPerThread / std::max<int64_t>(1, work));
}

}  // namespace segcore
