// PyTorch's own operators that the stable ABI has no function for, or one with more words.
#pragma once

#include <array>
#include <optional>

#include <torch/csrc/stable/ops.h>

namespace segcore {

struct __attribute__((visibility("hidden"))) Sorted {
  torch::stable::Tensor values, indices;
};

// Along the last dimension, ascending; equal numbers stay in their order.
inline Sorted stable_sort(const torch::stable::Tensor& tensor) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 4> stack = {
      from(tensor), from(std::optional<bool>(true)), from(int64_t(-1)), from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<torch::stable::Tensor>(stack[0]), to<torch::stable::Tensor>(stack[1])};
}

struct __attribute__((visibility("hidden"))) Range {
  torch::stable::Tensor smallest, largest;
};

// Over dimension 1.
inline Range range_of(const torch::stable::Tensor& tensor) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  std::array<StableIValue, 3> stack = {
      from(tensor), from(std::optional<int64_t>(1)), from(false)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::aminmax", "", stack.data(), TORCH_ABI_VERSION));
  return {to<torch::stable::Tensor>(stack[0]), to<torch::stable::Tensor>(stack[1])};
}

// (rows, columns) -> (columns), in one type of numbers, and the result in another.
inline torch::stable::Tensor sum_of_rows(
    const torch::stable::Tensor& tensor, torch::headeronly::ScalarType type) {
  const std::array<int64_t, 1> dim = {0};
  return torch::stable::to(
      torch::stable::sum(tensor, torch::headeronly::IntHeaderOnlyArrayRef(dim.data(), 1)), type);
}

}  // namespace segcore
