// The arguments of sums in place with their layer norm, checked.
#pragma once

#include <optional>
#include <utility>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"

namespace segcore {

struct AddLayerNormSizes {
  int64_t rows, channels;
};

struct __attribute__((visibility("hidden"))) AddLayerNormArguments {
  using Tensor = torch::stable::Tensor;
  using Types = ArgumentTypes<
      Tensor, const std::optional<Tensor>&, const Tensor&, const Tensor&, double, Tensor>;

  Tensor x;
  const std::optional<Tensor>& added;
  const Tensor &weight, &bias;
  double eps;
  Tensor out;
};

inline AddLayerNormSizes check_add_layer_norm(const AddLayerNormArguments& a) {
  STD_TORCH_CHECK(a.x.dim() > 0, "x: expected (..., C), got a scalar");
  accumulation_type(a.x.scalar_type());  // refuses other types
  const int64_t channels = a.x.size(a.x.dim() - 1);
  const auto check = [&](const char* name, const torch::stable::Tensor& tensor) {
    check_type(name, tensor, a.x.scalar_type());
    check_same_device(name, tensor, a.x);
  };
  const auto check_rows = [&](const char* name, const torch::stable::Tensor& tensor) {
    check(name, tensor);
    check_sizes(name, tensor, a.x.sizes());
    STD_TORCH_CHECK(tensor.is_contiguous(), name, ": expected contiguous memory");
  };
  check_rows("x", a.x);
  check_rows("out", a.out);
  if (a.added) check_rows("added", *a.added);
  for (const auto& [name, tensor] : {std::pair("weight", &a.weight), std::pair("bias", &a.bias)}) {
    check(name, *tensor);
    check_sizes(name, *tensor, {channels});
  }
  return {channels == 0 ? 0 : a.x.numel() / channels, channels};
}

using AddLayerNorm = Operator<AddLayerNormArguments, check_add_layer_norm>;

}  // namespace segcore
