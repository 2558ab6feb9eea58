// The arguments of 3x3 convolutions by transforms, checked.
#pragma once

#include <optional>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"

namespace segcore {

struct WinogradSizes {
  static constexpr int64_t kTile = 4, kPatch = 6, kProducts = kPatch * kPatch;

  int64_t batch, height, width, channels, filters;

  int64_t rows() const { return (height + kTile - 1) / kTile; }
  int64_t columns() const { return (width + kTile - 1) / kTile; }
  int64_t tiles() const { return batch * rows() * columns(); }
};

struct __attribute__((visibility("hidden"))) WinogradArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<const Tensor&, const Tensor&, const std::optional<Tensor>&, bool>;

  const Tensor &x, &weight;
  const std::optional<Tensor>& bias;
  bool relu;
};

inline WinogradSizes check_winograd(const WinogradArguments& a) {
  check_dim("x", a.x, 4);
  check_dim("weight", a.weight, 3);
  const WinogradSizes s = {
      a.x.size(0), a.x.size(2), a.x.size(3), a.x.size(1), a.weight.size(2)};
  STD_TORCH_CHECK(
      accumulation_type(a.x.scalar_type()) == a.x.scalar_type(),
      "x: expected float32 or float64, got ", torch::headeronly::toString(a.x.scalar_type()));
  check_sizes("weight", a.weight, {WinogradSizes::kProducts, s.channels, s.filters});
  check_type("weight", a.weight, a.x.scalar_type());
  check_same_device("weight", a.weight, a.x);
  if (a.bias) {
    check_sizes("bias", *a.bias, {s.filters});
    check_type("bias", *a.bias, a.x.scalar_type());
    check_same_device("bias", *a.bias, a.x);
  }
  return s;
}

using WinogradConv2d = Operator<WinogradArguments, check_winograd>;

}  // namespace segcore
