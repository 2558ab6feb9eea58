// Sampling locations from references and offsets, one axis at a time.
#pragma once

#include <torch/headeronly/macros/Macros.h>

namespace segcore {

// location = center + offset / divisor * factor, rounded as the twin rounds it.
template <typename T>
struct ReferenceAxis {
  T center, divisor, factor;

  // What an offset adds to the location; as it is linear in the offset, also the gradient of the
  // offset by that of the location.
  C10_HOST_DEVICE T displacement(T offset) const { return offset / divisor * factor; }
  C10_HOST_DEVICE T location(T offset) const { return center + displacement(offset); }
  // Derivative of the location by the extent of a box.
  C10_HOST_DEVICE T slope_of_extent(T offset) const {
    return offset / divisor * static_cast<T>(0.5);
  }
};

// `reference`: (x, y) of a point, whose offsets are in cells, or (x, y, width, height) of a box,
// where an offset of `points` leads from the center to the edge.
template <typename T>
C10_HOST_DEVICE inline ReferenceAxis<T> reference_axis(
    const T* reference, bool is_box, int axis, T cells, T points) {
  if (is_box) return {reference[axis], points, reference[axis + 2] * static_cast<T>(0.5)};
  return {reference[axis], cells, static_cast<T>(1)};
}

}  // namespace segcore
