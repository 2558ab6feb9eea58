// Bilinear sampling with zeros outside the map: the arithmetic of grid_sample(mode="bilinear",
// padding_mode="zeros", align_corners=False), one axis at a time.
#pragma once

#include <cmath>
#include <cstdint>

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

// Cell: the integer type of sizes and cells.

// Position in cells of a location in [0, 1]; the center of cell i is at i.
template <typename T, typename Cell>
C10_HOST_DEVICE inline T cell_position(T location, Cell size) {
  return location * static_cast<T>(size) - static_cast<T>(0.5);
}

// True if a sample gets anything from the map; false for NaN. A position that passes can be
// converted to an integer, whatever the location was.
template <typename T, typename Cell>
C10_HOST_DEVICE inline bool touches_map(T position, Cell size) {
  return position > static_cast<T>(-1) && position < static_cast<T>(size);
}

// The two neighboring cells of a position that touches the map. A neighbor outside is clamped
// into the map (so that it can be read) and has weight and slope zero.
template <typename T, typename Cell>
struct AxisSample {
  Cell cell[2];
  T weight[2];
  T slope[2];  // derivative of the weight by the position
};

template <typename T, typename Cell>
C10_HOST_DEVICE inline AxisSample<T, Cell> sample_axis(T position, Cell size) {
  const T low = std::floor(position);
  const T fraction = position - low;
  const Cell cell = static_cast<Cell>(low);
  const bool has_low = cell >= 0;
  const bool has_high = cell + 1 < size;
  return {
      {has_low ? cell : 0, has_high ? cell + 1 : size - 1},
      {has_low ? 1 - fraction : T(0), has_high ? fraction : T(0)},
      {has_low ? T(-1) : T(0), has_high ? T(1) : T(0)}};
}

// Derivatives of one sample by its attention weight and by its position in cells (the latter
// without the factor of the attention weight), from the products of the upstream gradient with the
// features of the corners: top left, top right, bottom left, bottom right.
template <typename T>
struct SampleGradient {
  T weight, x, y;
};

template <typename T, typename Cell>
C10_HOST_DEVICE inline SampleGradient<T> sample_gradient(
    const AxisSample<T, Cell>& y, const AxisSample<T, Cell>& x, const T dots[4]) {
  const T top = x.weight[0] * dots[0] + x.weight[1] * dots[1];
  const T bottom = x.weight[0] * dots[2] + x.weight[1] * dots[3];
  const T left = y.weight[0] * dots[0] + y.weight[1] * dots[2];
  const T right = y.weight[0] * dots[1] + y.weight[1] * dots[3];
  return {
      y.weight[0] * top + y.weight[1] * bottom,
      x.slope[0] * left + x.slope[1] * right,
      y.slope[0] * top + y.slope[1] * bottom};
}

}  // namespace segcore
