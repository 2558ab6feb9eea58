// Sizes of weighted sums of tokens.
#pragma once

#include <array>
#include <cstdint>

namespace segcore {

struct PointGatherSizes {
  int64_t batch, tokens, channels;  // features (batch, tokens, channels)
  int64_t queries, neighbors;       // indices and weights (batch, queries, neighbors)

  std::array<int64_t, 3> output() const { return {batch, queries, channels}; }
};

}  // namespace segcore
