// Products of tiles by tensor cores, a tile a warp, in TF32: factors of 11 bits, sums in float32. float16
// and bfloat16 are exact in it. A float32 is taken as the sum of two such numbers; the product of the lower
// ones is left out, which leaves an error of 2^-22 of each product.
//
// Lane 4 g + t of the warp has of a tile of 16 x 8 numbers those of rows g and g + 8 in columns 2 t and
// 2 t + 1: row g first, 4 in all. Of the 8 x 8 numbers on the right of a product it has rows 2 t and
// 2 t + 1 of column g.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../common/unroll.h"
#include "warp.cuh"

namespace segcore {

#ifdef __CUDACC__
// d (16 x 8) += a (16 x 8) b (8 x 8), with the fragments of PTX: a lane has of `a` columns t and t + 4 (row g,
// row g + 8, then the second column), of `b` rows t and t + 4.
__device__ inline void mma_m16n8k8_tf32(
    float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// The nearest number of 11 bits.
__device__ inline uint32_t round_to_tf32(float x) {
  return (__float_as_uint(x) + 0x1000u) & 0xffffe000u;
}

// The numbers of a lane as factors, for a product in the precision of T. `of_type`: they are numbers of type
// T; others are rounded where T has no lower part.
template <typename T, int kCount>
struct Factors {
  static constexpr bool kSplit = std::is_same_v<T, float>;
  uint32_t high[kCount], low[kSplit ? kCount : 1];

  __device__ Factors(const float (&values)[kCount], bool of_type) {
    SEGCORE_UNROLL
    for (int i = 0; i < kCount; ++i) {
      high[i] = of_type && !kSplit ? __float_as_uint(values[i]) : round_to_tf32(values[i]);
      if constexpr (kSplit) low[i] = round_to_tf32(values[i] - __uint_as_float(high[i]));
    }
  }
};

// Columns 2 t and 2 t + 1 take the places of t and t + 4 in PTX's fragments: any order of the numbers that are
// summed over will do, and this one makes sums of one product the left factors of the next.
__device__ inline void add_tile_product(
    float (&sums)[4], const uint32_t (&left)[4], const uint32_t (&right)[2]) {
  mma_m16n8k8_tf32(sums, {left[0], left[2], left[1], left[3]}, right);
}

// sums (16 x 8) += left (16 x 8) right (8 x 8)
template <typename T>
__device__ inline void add_tile_product(
    float (&sums)[4], const Factors<T, 4>& left, const Factors<T, 2>& right) {
  if constexpr (Factors<T, 2>::kSplit) {
    add_tile_product(sums, left.low, right.high);
    add_tile_product(sums, left.high, right.low);
  }
  add_tile_product(sums, left.high, right.high);
}

// kCount neighboring numbers, by accesses of up to 16 bytes; their address must be a multiple of 16, or of
// their size if that is less.
template <typename T, int kCount>
constexpr int kPackOfMany = kCount * sizeof(T) < 16 ? kCount : 16 / static_cast<int>(sizeof(T));

template <int kCount, typename T>
__device__ inline void load_many(const T* address, float (&values)[kCount]) {
  constexpr int kPack = kPackOfMany<T, kCount>;
  SEGCORE_UNROLL
  for (int i = 0; i < kCount; i += kPack) {
    float part[kPack];
    load(address + i, part);
    for (int j = 0; j < kPack; ++j) values[i + j] = part[j];
  }
}

template <int kCount, typename T>
__device__ inline void store_many(T* address, const float (&values)[kCount]) {
  constexpr int kPack = kPackOfMany<T, kCount>;
  SEGCORE_UNROLL
  for (int i = 0; i < kCount; i += kPack) {
    float part[kPack];
    for (int j = 0; j < kPack; ++j) part[j] = values[i + j];
    store(address + i, part);
  }
}

}  // namespace segcore
