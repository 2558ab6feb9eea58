// Sizes of multi-scale deformable attention.
#pragma once

#include <array>
#include <cstdint>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

// Positions in cells are exact in float32, and cells of a level fit into 32 bits along each axis.
constexpr int64_t kMaxSide = 1 << 24;

struct MsDeformAttnSizes {
  int64_t batch, tokens, heads, channels;  // value (batch, tokens, heads, channels)
  int64_t queries, levels, points;         // locations (batch, queries, heads, levels, points, 2)

  C10_HOST_DEVICE int64_t samples() const { return levels * points; }  // of one query and head
  std::array<int64_t, 3> output() const { return {batch, queries, heads * channels}; }
};

struct Level {
  int64_t height, width, first_token;
};

}  // namespace segcore
