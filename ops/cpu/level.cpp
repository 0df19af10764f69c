// What this library was compiled for, and what the processor that it runs on can do.
#include "lanes.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif

extern "C" {

// Changes with any function's arguments, so that a library of another release is not called by mistake.
int lgrnet_version() { return 9; }

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

// Products of bfloat16 by this library: 2 with instructions for them; 1 where torch's own are faster, without such
// instructions or with those for whole matrices (AMX); 0 where it would use instructions that this processor lacks.
int lgrnet_bfloat16() {
#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) ? 1 : 2;
#else
  return 1;
#endif
}
}
