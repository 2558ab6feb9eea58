// The arguments of group norms in place, checked.
#pragma once

#include <optional>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"

namespace segcore {

struct GroupNormSizes {
  int64_t batch, height, width, channels, groups;
  int64_t coarse_height, coarse_width;

  int64_t pixels() const { return height * width; }
};

struct __attribute__((visibility("hidden"))) GroupNormArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      Tensor, int64_t, const Tensor&, const Tensor&, double, const std::optional<Tensor>&, bool>;

  Tensor x;
  int64_t groups;
  const Tensor &weight, &bias;
  double eps;
  const std::optional<Tensor>& coarse;
  bool relu;
};

// True where the memory is that of (B, H, W, C).
inline bool is_channels_last(const torch::stable::Tensor& x) {
  const int64_t channels = x.size(1), height = x.size(2), width = x.size(3);
  return (channels == 1 || x.stride(1) == 1) && (width == 1 || x.stride(3) == channels) &&
         (height == 1 || x.stride(2) == width * channels) &&
         (x.size(0) == 1 || x.stride(0) == height * width * channels);
}

inline GroupNormSizes check_group_norm(const GroupNormArguments& a) {
  check_dim("x", a.x, 4);
  GroupNormSizes s = {a.x.size(0), a.x.size(2), a.x.size(3), a.x.size(1), a.groups, 0, 0};
  accumulation_type(a.x.scalar_type());  // refuses other types
  STD_TORCH_CHECK(is_channels_last(a.x), "x: expected channels-last memory");
  STD_TORCH_CHECK(
      s.groups > 0 && s.channels % s.groups == 0,
      "groups: expected a divisor of ", s.channels, " channels, got ", s.groups);
  check_sizes("weight", a.weight, {s.channels});
  check_type("weight", a.weight, a.x.scalar_type());
  check_same_device("weight", a.weight, a.x);
  check_sizes("bias", a.bias, {s.channels});
  check_type("bias", a.bias, a.x.scalar_type());
  check_same_device("bias", a.bias, a.x);
  if (a.coarse) {
    check_dim("coarse", *a.coarse, 4);
    s.coarse_height = a.coarse->size(2);
    s.coarse_width = a.coarse->size(3);
    check_sizes("coarse", *a.coarse, {s.batch, s.channels, s.coarse_height, s.coarse_width});
    check_type("coarse", *a.coarse, a.x.scalar_type());
    check_same_device("coarse", *a.coarse, a.x);
    STD_TORCH_CHECK(is_channels_last(*a.coarse), "coarse: expected channels-last memory");
    STD_TORCH_CHECK(
        s.pixels() == 0 || s.coarse_height * s.coarse_width > 0, "coarse: expected pixels, got none");
  }
  return s;
}

using GroupNorm = Operator<GroupNormArguments, check_group_norm>;

}  // namespace segcore
