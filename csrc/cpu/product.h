// Matrix products in the registers of a core.
#pragma once

#include <cstdint>

#include "lanes.h"

namespace segcore {

// A register of 512 bits, or as many smaller ones as make it up.
template <typename T>
struct WideOf {
  typedef T type __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
};
template <typename T>
using Wide = typename WideOf<T>::type;
template <typename T>
constexpr int64_t kWide = 64 / sizeof(T);

template <typename T>
constexpr int64_t padded(int64_t count) {
  return (count + kWide<T> - 1) / kWide<T> * kWide<T>;
}

// Rows that share what is loaded of a matrix: with four vectors of columns, their sums take 24 of the 32
// registers of AVX-512.
constexpr int kProductRows = 6;

// products[r, j] = sum over k of rows[r, k] * matrix[k, j] for kProductRows rows, kVectors registers of j.
template <int kVectors, typename T>
SEGCORE_INLINE void multiply_columns(
    const T* rows, int64_t row, int64_t depth, const T* matrix, int64_t matrix_row, T* products,
    int64_t product_row) {
  Wide<T> sum[kProductRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      const Wide<T>& column = vector_at<Wide<T>>(matrix + k * matrix_row + v * kWide<T>);
      for (int r = 0; r < kProductRows; ++r) sum[r][v] += rows[r * row + k] * column;
    }
  }
  for (int r = 0; r < kProductRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      vector_at<Wide<T>>(products + r * product_row + v * kWide<T>) = sum[r][v];
    }
  }
}

// The same for all columns, whose number fills vectors.
template <typename T>
SEGCORE_INLINE void multiply(
    const T* rows, int64_t row, int64_t depth, const T* matrix, int64_t matrix_row, int64_t columns,
    T* products, int64_t product_row) {
  int64_t j = 0;
  for (; j + 4 * kWide<T> <= columns; j += 4 * kWide<T>) {
    multiply_columns<4>(rows, row, depth, matrix + j, matrix_row, products + j, product_row);
  }
  for (; j + 2 * kWide<T> <= columns; j += 2 * kWide<T>) {
    multiply_columns<2>(rows, row, depth, matrix + j, matrix_row, products + j, product_row);
  }
  for (; j < columns; j += kWide<T>) {
    multiply_columns<1>(rows, row, depth, matrix + j, matrix_row, products + j, product_row);
  }
}

}  // namespace segcore
