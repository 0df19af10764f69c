// What this library was compiled for, and what the processor that it runs on can do.
#include "lanes.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
namespace {

// Linux gives the tiles' registers to a process that asks for them, for all of its threads.
bool may_use_tiles() {
#ifdef __linux__
  constexpr long ASK = 0x1023, TILES = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA of <asm/prctl.h>, since 5.16
  return syscall(SYS_arch_prctl, ASK, TILES) == 0;
#else
  return false;
#endif
}

}  // namespace
#endif

extern "C" {

// Changes with any function's arguments, so that a library of another release is not called by mistake.
int lgrnet_version() { return 11; }

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

// 1 where torch's products of float32 take vectors of half this library's: MKL's do on processors that are not Intel's.
int lgrnet_wider_than_torch() {
#if LGRNET_LANES == 16
  __builtin_cpu_init();
  return !__builtin_cpu_is("intel");
#else
  return 0;
#endif
}

// Products of bfloat16 by this library: 3 with instructions for whole matrices (AMX); 2 with those for pairs of numbers;
// 1 where torch's own are faster: without any, and where the system does not allow those for matrices (such processors
// are slow at pairs); 0 where it would use instructions that this processor lacks.
int lgrnet_bfloat16() {
#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a >> 5 & 1)) return 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1)) return 2;
  return may_use_tiles() ? 3 : 1;
#elif defined(LGRNET_EMULATED)
  return LGRNET_EMULATED;
#else
  return 1;
#endif
}
}
