// PyTorch's operators that the stable ABI has no function for, and shorter calls of others.
#pragma once

#include <array>
#include <optional>
#include <utility>

#include <torch/csrc/stable/ops.h>

namespace segcore {

// Calls an operator that returns two tensors.
template <size_t kCount>
std::pair<torch::stable::Tensor, torch::stable::Tensor> call_for_two(
    const char* name, const char* overload, std::array<StableIValue, kCount> stack) {
  using torch::stable::detail::to;
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return {to<torch::stable::Tensor>(stack[0]), to<torch::stable::Tensor>(stack[1])};
}

// Values and indices along the last dimension, ascending; equal numbers stay in their order.
inline std::pair<torch::stable::Tensor, torch::stable::Tensor> stable_sort(
    const torch::stable::Tensor& tensor) {
  using torch::stable::detail::from;
  return call_for_two<4>(
      "aten::sort", "stable",
      {from(tensor), from(std::optional<bool>(true)), from(int64_t(-1)), from(false)});
}

// Smallest and largest numbers over dimension 1.
inline std::pair<torch::stable::Tensor, torch::stable::Tensor> range_of(
    const torch::stable::Tensor& tensor) {
  using torch::stable::detail::from;
  return call_for_two<3>(
      "aten::aminmax", "", {from(tensor), from(std::optional<int64_t>(1)), from(false)});
}

// Sum over dimension 0 of a matrix, converted to `type`.
inline torch::stable::Tensor sum_of_rows(
    const torch::stable::Tensor& tensor, torch::headeronly::ScalarType type) {
  const std::array<int64_t, 1> dim = {0};
  return torch::stable::to(
      torch::stable::sum(tensor, torch::headeronly::IntHeaderOnlyArrayRef(dim.data(), 1)), type);
}

// Copies of the parts of a vector, one after the other, in given shapes.
class __attribute__((visibility("hidden"))) Parts {
 public:
  explicit Parts(const torch::stable::Tensor& whole) : whole_(whole) {}

  torch::stable::Tensor next_like(const torch::stable::Tensor& model) {
    torch::stable::Tensor part = torch::stable::narrow(whole_, 0, first_, model.numel());
    first_ += model.numel();
    return torch::stable::clone(torch::stable::reshape(part, model.sizes()));
  }

 private:
  torch::stable::Tensor whole_;
  int64_t first_ = 0;
};

}  // namespace segcore
