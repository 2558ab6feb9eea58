// The arguments of attention within windows of a map, checked.
#pragma once

#include <array>
#include <cstdint>

#include <torch/csrc/stable/tensor.h>

#include "operator.h"

namespace segcore {

struct WindowAttentionSizes {
  int64_t batch, height, width, heads, channels;  // qkv (batch, height, width, 3 * heads * channels)
  int64_t window, row_shift, column_shift;

  int64_t tokens() const { return window * window; }
  int64_t rows() const { return (height + window - 1) / window; }  // of windows
  int64_t columns() const { return (width + window - 1) / window; }
  std::array<int64_t, 4> output() const { return {batch, height, width, heads * channels}; }
};

struct __attribute__((visibility("hidden"))) WindowAttentionArguments {
  using Tensor = torch::stable::Tensor;
  using Types =
      ArgumentTypes<const Tensor&, const Tensor&, const Tensor&, int64_t, int64_t, int64_t, double>;

  const Tensor &qkv, &padding, &bias;
  int64_t window, row_shift, column_shift;
  double scale;
};

inline WindowAttentionSizes check_window_attention(const WindowAttentionArguments& a) {
  check_dim("qkv", a.qkv, 4);
  check_dim("bias", a.bias, 3);
  STD_TORCH_CHECK(
      a.window >= 1 && a.window <= 1024, "window: expected from 1 to 1024, got ", a.window);
  for (const int64_t shift : {a.row_shift, a.column_shift}) {
    STD_TORCH_CHECK(
        shift >= 0 && shift < a.window, "shift: expected from 0 to window - 1, got ", shift);
  }
  const int64_t heads = a.bias.size(0), tokens = a.window * a.window;
  STD_TORCH_CHECK(
      heads > 0 && a.qkv.size(3) % (3 * heads) == 0,
      "qkv: expected 3 * heads * channels numbers a cell, got ", a.qkv.size(3), " of ", heads,
      " heads");
  const WindowAttentionSizes s = {
      a.qkv.size(0), a.qkv.size(1), a.qkv.size(2), heads, a.qkv.size(3) / (3 * heads),
      a.window, a.row_shift, a.column_shift};
  check_sizes("padding", a.padding, {a.qkv.size(3)});
  check_sizes("bias", a.bias, {heads, tokens, tokens});
  check_type("padding", a.padding, a.qkv.scalar_type());
  check_type("bias", a.bias, accumulation_type(a.qkv.scalar_type()));
  check_same_device("padding", a.padding, a.qkv);
  check_same_device("bias", a.bias, a.qkv);
  return s;
}

using WindowAttention = Operator<WindowAttentionArguments, check_window_attention>;

}  // namespace segcore
