// Code for the element type of a tensor.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace segcore {

// Calls `run` with a number of the type that sums are accumulated in: double or float.
template <typename Run>
void for_precision(torch::headeronly::ScalarType precision, const Run& run) {
  if (precision == torch::headeronly::ScalarType::Double) {
    run(double());
  } else {
    run(float());
  }
}

// Calls `run` with a number of the type of values: double, float, Half or BFloat16.
template <typename Run>
void for_value_type(torch::headeronly::ScalarType type, const Run& run) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Half:
      return run(torch::headeronly::Half());
    case ScalarType::BFloat16:
      return run(torch::headeronly::BFloat16());
    default:
      return for_precision(type, run);
  }
}

}  // namespace segcore
