#pragma once

#include <cstdint>

namespace segcore {

// The number of parts of at most `size` that `count` things make.
constexpr int64_t divide_up(int64_t count, int64_t size) { return (count + size - 1) / size; }

// The next multiple of `size`.
constexpr int64_t round_up(int64_t count, int64_t size) { return divide_up(count, size) * size; }

}  // namespace segcore
