#include "../common/build_info.h"

#include "simd.h"

namespace segcore {

// Chosen as the clones of the kernels are. (GCC 12 cannot do this in an unnamed namespace.)
#ifdef SEGCORE_HAS_CLONES
__attribute__((target("arch=x86-64-v4"))) const char* describe() {
  return SEGCORE_BUILT_WITH "; runs its AVX-512 code (x86-64-v4) here";
}
__attribute__((target("arch=x86-64-v3"))) const char* describe() {
  return SEGCORE_BUILT_WITH "; runs its AVX2 code (x86-64-v3) here";
}
__attribute__((target("default")))
#endif
const char* describe() {
  return SEGCORE_BUILT_WITH "; runs its baseline code here";
}

}  // namespace segcore

extern "C" const char* segcore_build_info() {
  return segcore::describe();
}
