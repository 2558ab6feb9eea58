// Checks of tensor arguments: the message names the argument, what was expected and what came.
#pragma once

#include <algorithm>
#include <cstdint>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

namespace segcore {

inline void check_dim(const char* name, const torch::stable::Tensor& tensor, int64_t dim) {
  STD_TORCH_CHECK(
      tensor.dim() == dim, name, ": expected ", dim, " dimensions, got ", tensor.dim());
}

inline void check_sizes(
    const char* name,
    const torch::stable::Tensor& tensor,
    torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  check_dim(name, tensor, static_cast<int64_t>(sizes.size()));
  int64_t dim = 0;
  for (const int64_t size : sizes) {
    STD_TORCH_CHECK(
        tensor.size(dim) == size,
        name, ": expected size ", size, " in dimension ", dim, ", got ", tensor.size(dim));
    ++dim;
  }
}

inline void check_type(
    const char* name,
    const torch::stable::Tensor& tensor,
    torch::headeronly::ScalarType type) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == type,
      name, ": expected ", torch::headeronly::toString(type),
      ", got ", torch::headeronly::toString(tensor.scalar_type()));
}

inline void check_same_device(
    const char* name, const torch::stable::Tensor& tensor, const torch::stable::Tensor& other) {
  STD_TORCH_CHECK(
      tensor.device() == other.device(), name, ": expected the device of the other arguments");
}

// Half types accumulate in float32; an unsupported type is refused.
inline torch::headeronly::ScalarType accumulation_type(torch::headeronly::ScalarType type) {
  using torch::headeronly::ScalarType;
  switch (type) {
    case ScalarType::Double:
      return ScalarType::Double;
    case ScalarType::Float:
    case ScalarType::Half:
    case ScalarType::BFloat16:
      return ScalarType::Float;
    default:
      STD_TORCH_CHECK(
          false,
          "value: expected float64, float32, float16 or bfloat16, got ",
          torch::headeronly::toString(type));
  }
}

}  // namespace segcore
