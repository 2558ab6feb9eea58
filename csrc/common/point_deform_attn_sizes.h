// Sizes of deformable attention over tokens, and where a location is on the canvas.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

struct PointDeformAttnSizes {
  int64_t batch, tokens, heads, channels;  // values (batch, tokens, heads, channels)
  int64_t levels, neighbors;              // neighbors (batch, levels, cells, neighbors)
  int64_t queries, points;                 // locations (batch, queries, heads, levels, points, 2)
  int64_t height, width;                   // of the canvas, in cells

  C10_HOST_DEVICE int64_t cells() const { return height * width; }
  C10_HOST_DEVICE int64_t samples() const { return levels * points; }  // of one query and head
  std::array<int64_t, 3> output() const { return {batch, queries, heads * channels}; }
};

// The cell nearest to a coordinate, halves to the even one; the first one for NaN.
template <typename T, typename Cell>
C10_HOST_DEVICE inline Cell nearest_cell(T coordinate, Cell cells) {
  const T cell = std::nearbyint(coordinate);
  if (!(cell > 0)) return 0;
  return cell < static_cast<T>(cells) ? static_cast<Cell>(cell) : cells - 1;
}

}  // namespace segcore
