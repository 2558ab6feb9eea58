// Rows of channels in a tensor (batch, tokens, heads, channels), the channels side by side.
#pragma once

#include <cstdint>

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

}  // namespace segcore
