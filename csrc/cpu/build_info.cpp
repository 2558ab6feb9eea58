#include "../common/build_info.h"

#include "simd.h"

// Names the instruction set by the rule of SEGCORE_TARGET_CLONES.
extern "C" const char* segcore_build_info() {
#ifdef SEGCORE_HAS_CLONES
  if (__builtin_cpu_supports("x86-64-v4")) return SEGCORE_BUILT_WITH "; runs its AVX-512 code here";
  if (__builtin_cpu_supports("x86-64-v3")) return SEGCORE_BUILT_WITH "; runs its AVX2 code here";
#endif
  return SEGCORE_BUILT_WITH "; runs its baseline code here";
}
