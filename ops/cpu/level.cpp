// What this library was compiled for, and what the processor that it runs on can do.
#include "lanes.h"

extern "C" {

// Changes with any function's arguments, so that a library of another release is not called by mistake.
int lgrnet_version() { return 8; }

// Floats in a vector: a part of the layout of the scan's checkpoints.
int lgrnet_lanes() { return LANES; }

// The best library for this processor: 2 AVX-512, 1 AVX2 with FMA, 0 the portable one.
int lgrnet_level() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl"))
    return 2;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
  return 0;
}
}
