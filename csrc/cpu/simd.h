// One binary for all processors, without -march=native: a function is compiled for several
// instruction sets, and the loader picks one.
#pragma once

#include <cstdlib>  // defines __GLIBC__

// For functions with the hot loops. Does not reach into lambdas: the loop must be in a named
// function, and what it calls must be inlined. GCC 12 or newer on x86-64 with glibc; elsewhere the
// baseline is built. Sanitizers check one version only, which is a third of the time.
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(__SANITIZE_ADDRESS__)
#define SEGCORE_HAS_CLONES
#define SEGCORE_TARGET_CLONES \
  __attribute__((noinline, target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SEGCORE_TARGET_CLONES __attribute__((noinline))
#endif

#define SEGCORE_INLINE inline __attribute__((always_inline))
