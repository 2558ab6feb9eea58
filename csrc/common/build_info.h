// Description of a library for projects/segcore/doctor.py.
#pragma once

#include <torch/headeronly/version.h>

#define SEGCORE_STRING_OF(x) #x
#define SEGCORE_STRING(x) SEGCORE_STRING_OF(x)

#if defined(__clang__)
#define SEGCORE_HOST_COMPILER "Clang " __clang_version__
#elif defined(__GNUC__)
#define SEGCORE_HOST_COMPILER "GCC " __VERSION__
#else
#define SEGCORE_HOST_COMPILER "an unknown compiler"
#endif

#define SEGCORE_BUILT_WITH SEGCORE_HOST_COMPILER ", headers of PyTorch " TORCH_VERSION
