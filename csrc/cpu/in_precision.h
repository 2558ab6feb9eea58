#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

namespace segcore {

// The tensor in this type, contiguous.
inline torch::stable::Tensor in_precision(
    const torch::stable::Tensor& tensor, torch::headeronly::ScalarType type) {
  return torch::stable::contiguous(torch::stable::to(tensor, type));
}

}  // namespace segcore
