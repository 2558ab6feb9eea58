#include "../common/build_info.h"

extern "C" const char* segcore_build_info() {
  return "CUDA " SEGCORE_STRING(__CUDACC_VER_MAJOR__) "." SEGCORE_STRING(__CUDACC_VER_MINOR__)
      " for architectures " SEGCORE_STRING((__CUDA_ARCH_LIST__)) ", " SEGCORE_BUILT_WITH;
}
