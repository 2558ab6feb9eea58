// For short loops inside a loop that is to be vectorized: GCC does that only once they are unrolled.
#pragma once

#if defined(__CUDACC__)
#define SEGCORE_UNROLL _Pragma("unroll")
#elif defined(__GNUC__) && !defined(__clang__)
#define SEGCORE_UNROLL _Pragma("GCC unroll 16")
#elif defined(__clang__)
#define SEGCORE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SEGCORE_UNROLL
#endif
