// Matrix products in the registers of a core.
#pragma once

#include <cstdint>

#include "divide.h"
#include "lanes.h"

namespace segcore {

template <typename T>
constexpr int64_t padded(int64_t count) {
  return round_up(count, kWide<T>);
}

// Rows that share what is loaded of a matrix: with four vectors of columns, their sums take 24 of the 32
// registers of AVX-512; with two, 12 of the 16 of AVX2.
constexpr int kProductRows = 6;

// products[r, j] = sum over k of rows[r, k] * matrix[k, j] for kProductRows rows, kVectors vectors V of j.
template <typename V, int kVectors, typename T>
SEGCORE_INLINE void multiply_columns(
    const T* rows, int64_t row, int64_t depth, const T* matrix, int64_t matrix_row, T* products,
    int64_t product_row) {
  constexpr int64_t kLength = sizeof(V) / sizeof(T);
  V sum[kProductRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      const V& column = vector_at<V>(matrix + k * matrix_row + v * kLength);
      for (int r = 0; r < kProductRows; ++r) sum[r][v] += rows[r * row + k] * column;
    }
  }
  for (int r = 0; r < kProductRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      vector_at<V>(products + r * product_row + v * kLength) = sum[r][v];
    }
  }
}

// The same for all columns, a multiple of kWide.
template <typename T>
SEGCORE_INLINE void multiply(
    const T* rows, int64_t row, int64_t depth, const T* matrix, int64_t matrix_row, int64_t columns,
    T* products, int64_t product_row) {
  constexpr int64_t kLength = kWide<T>;
  int64_t j = 0;
  if (!has_wide_registers()) {
    for (; j < columns; j += kLength) {
      multiply_columns<Narrow<T>, 2>(
          rows, row, depth, matrix + j, matrix_row, products + j, product_row);
    }
    return;
  }
  for (; j + 4 * kLength <= columns; j += 4 * kLength) {
    multiply_columns<Wide<T>, 4>(
        rows, row, depth, matrix + j, matrix_row, products + j, product_row);
  }
  for (; j + 2 * kLength <= columns; j += 2 * kLength) {
    multiply_columns<Wide<T>, 2>(
        rows, row, depth, matrix + j, matrix_row, products + j, product_row);
  }
  for (; j < columns; j += kLength) {
    multiply_columns<Wide<T>, 1>(
        rows, row, depth, matrix + j, matrix_row, products + j, product_row);
  }
}

}  // namespace segcore
