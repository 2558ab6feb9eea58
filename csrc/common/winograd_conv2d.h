// The arguments of 3x3 convolutions by transforms, checked.
#pragma once

#include <optional>
#include <utility>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"

namespace segcore {

struct WinogradSizes {
  static constexpr int64_t kTile = 4, kKernel = 3, kPatch = kTile + kKernel - 1;
  static constexpr int64_t kProducts = kPatch * kPatch;

  int64_t batch, height, width, channels, filters;

  int64_t rows() const { return (height + kTile - 1) / kTile; }
  int64_t columns() const { return (width + kTile - 1) / kTile; }
  int64_t tiles() const { return batch * rows() * columns(); }
};

struct __attribute__((visibility("hidden"))) WinogradArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      const Tensor&, const Tensor&, const std::optional<Tensor>&, const std::optional<Tensor>&, bool>;

  const Tensor &x, &weight;
  const std::optional<Tensor>&bias, &scale;
  bool relu;
};

inline WinogradSizes check_winograd(const WinogradArguments& a) {
  check_dim("x", a.x, 4);
  check_dim("weight", a.weight, 4);
  const WinogradSizes s = {
      a.x.size(0), a.x.size(2), a.x.size(3), a.x.size(1), a.weight.size(0)};
  STD_TORCH_CHECK(
      accumulation_type(a.x.scalar_type()) == a.x.scalar_type(),
      "x: expected float32 or float64, got ", torch::headeronly::toString(a.x.scalar_type()));
  check_sizes("weight", a.weight, {s.filters, s.channels, WinogradSizes::kKernel, WinogradSizes::kKernel});
  check_type("weight", a.weight, a.x.scalar_type());
  check_same_device("weight", a.weight, a.x);
  for (const auto& [name, values] : {std::pair("bias", &a.bias), std::pair("scale", &a.scale)}) {
    if (!*values) continue;
    check_sizes(name, **values, {s.filters});
    check_type(name, **values, a.x.scalar_type());
    check_same_device(name, **values, a.x);
  }
  return s;
}

using WinogradConv2d = Operator<WinogradArguments, check_winograd>;

}  // namespace segcore
