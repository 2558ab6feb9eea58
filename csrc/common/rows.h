// Rows of channels in a tensor (batch, tokens, heads, channels), the channels side by side.
#pragma once

#include <cstdint>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/macros/Macros.h>

namespace segcore {

template <typename T>
struct Rows {
  T* data;
  int64_t batch, token, head;  // strides

  C10_HOST_DEVICE T* row(int64_t n, int64_t i, int64_t a) const {
    return data + n * batch + i * token + a * head;
  }
};

// The tensor itself if its last dimension lies side by side.
inline torch::stable::Tensor with_rows(const torch::stable::Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  const bool rows = tensor.stride(last) == 1 || tensor.size(last) <= 1;
  return rows ? tensor : torch::stable::contiguous(tensor);
}

// Rows of a tensor (batch, tokens, heads, channels), or (batch, tokens, heads * channels).
template <typename T>
Rows<const T> rows_of(const torch::stable::Tensor& tensor, int64_t head_stride) {
  return {
      static_cast<const T*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1),
      head_stride};
}

}  // namespace segcore
