// Numbers of bfloat16, one or two in each lane of a vector.
#pragma once

#include "lanes.h"

// The upper half of a float's bits.
enum class BFloat16 : uint16_t {};
typedef uint16_t HalfLanes __attribute__((vector_size(LANES * sizeof(uint16_t))));
typedef uint32_t BitLanes __attribute__((vector_size(LANES * sizeof(uint32_t))));

LGRNET_INLINE Lanes load(const BFloat16 *place) {
  HalfLanes upper;
  std::memcpy(&upper, place, sizeof(upper));
#if LGRNET_LANES == 16  // in one instruction, which compilers do not find
  return (Lanes)((BitLanes)_mm512_cvtepu16_epi32((__m256i)upper) << 16);
#else
  return (Lanes)(__builtin_convertvector(upper, BitLanes) << 16);
#endif
}

// In the upper half of each lane, rounded to the nearest, of two to the even one; NaN stays NaN.
LGRNET_INLINE BitLanes rounded(Lanes lanes) {
  const BitLanes bits = (BitLanes)lanes, nearest = bits + 0x7FFF + ((bits >> 16) & 1), quiet = bits | 0x400000;
  return lanes == lanes ? nearest : quiet;
}

LGRNET_INLINE void store(BFloat16 *place, Lanes lanes) {
  const HalfLanes upper = __builtin_convertvector(rounded(lanes) >> 16, HalfLanes);
  std::memcpy(place, &upper, sizeof(upper));
}

LGRNET_INLINE Lanes load_part(const BFloat16 *place, int count) {
  if (count == LANES) return load(place);
  BFloat16 some[LANES] = {};
  std::memcpy(some, place, count * sizeof(BFloat16));
  return load(some);
}

LGRNET_INLINE void store_part(BFloat16 *place, Lanes lanes, int count) {
  if (count == LANES) return store(place, lanes);
  BFloat16 some[LANES];
  store(some, lanes);
  std::memcpy(place, some, count * sizeof(BFloat16));
}

// What follows takes instructions that not every processor with AVX-512 has (AVX512_BF16; level.cpp says which): asm,
// since an intrinsic would need the flags of those that do.

#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
// The numbers of `first`, then those of `second`.
LGRNET_INLINE __m512i both_rounded(Lanes first, Lanes second) {
  __m512i both;
  asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(both) : "v"(first), "v"(second));
  return both;
}
#endif

LGRNET_INLINE void store_both(BFloat16 *place, Lanes first, Lanes second) {
#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
  _mm512_storeu_si512(place, both_rounded(first, second));
#else
  store(place, first);
  store(place + LANES, second);
#endif
}

// From here on a lane holds a pair, which lies in memory as two numbers one after the other: products of pairs are
// summed.
LGRNET_INLINE Lanes pairs(Lanes first, Lanes second) {
#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
  const BitLanes lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return (Lanes)_mm512_permutexvar_epi16((__m512i)(lanes * 0x10001 + (LANES << 16)), both_rounded(first, second));
#else
  return (Lanes)((rounded(first) >> 16) | (rounded(second) & 0xFFFF0000));
#endif
}

// Two numbers at a time, or one where T is float: what one lane holds.
template <class T>
constexpr int64_t PER_LANE = sizeof(float) / sizeof(T);

// sum + a * b
template <class T>
LGRNET_INLINE Lanes add_product(Lanes sum, Lanes a, Lanes b) {
  if constexpr (PER_LANE<T> == 1) {
    return sum + a * b;
  } else {
#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
#else
    const BitLanes x = (BitLanes)a, y = (BitLanes)b;
    sum += (Lanes)(x << 16) * (Lanes)(y << 16);
    return sum + (Lanes)(x & 0xFFFF0000) * (Lanes)(y & 0xFFFF0000);
#endif
  }
}
