// Sizes of weighted sums of tokens.
#pragma once

#include <cstdint>

namespace segcore {

struct PointGatherSizes {
  int64_t batch, tokens, channels;  // features (batch, tokens, channels)
  int64_t queries, neighbours;      // indices and weights (batch, queries, neighbours)
};

}  // namespace segcore
