// The AVX-512 intrinsics of ops/**/cpu in plain C++, for processors without them: include before everything else.
//
// Each does what Intel's Intrinsics Guide says of it, lane by lane; with AVX2 the compiler makes two instructions of
// most. Names are macros, since <immintrin.h> has functions of these names that only an AVX-512 build may call.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>

#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#ifndef LGRNET_EMULATED
#define LGRNET_EMULATED 1  // what is no intrinsic; the value is what lgrnet_bfloat16 says
#endif

namespace stand_in {

#define EACH(statement)               \
  {                                   \
    __m512 out = {};                  \
    for (int i = 0; i < 16; ++i) {    \
      statement;                      \
    }                                 \
    return out;                       \
  }

inline int32_t lane(const __m512i &v, int i) {
  int32_t lanes[16];
  __builtin_memcpy(lanes, &v, sizeof(v));
  return lanes[i];
}

inline bool bit(uint32_t mask, int i) { return mask >> i & 1; }

inline __m512 set1_ps(float value) EACH(out[i] = value)
inline __m512 loadu_ps(const float *place) EACH(out[i] = place[i])
inline __m512 maskz_loadu_ps(uint32_t mask, const float *place) EACH(if (bit(mask, i)) out[i] = place[i])
inline __m512 mask_loadu_ps(__m512 others, uint32_t mask, const float *place)
    EACH(out[i] = bit(mask, i) ? place[i] : others[i])
inline __m512 mask_mov_ps(__m512 others, uint32_t mask, __m512 v) EACH(out[i] = bit(mask, i) ? v[i] : others[i])
inline void mask_storeu_ps(float *place, uint32_t mask, __m512 v) {
  for (int i = 0; i < 16; ++i)
    if (bit(mask, i)) place[i] = v[i];
}

inline __m512 add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) EACH(out[i] = std::fma(a[i], b[i], c[i]))
inline __m512 sqrt_ps(__m512 v) EACH(out[i] = std::sqrt(v[i]))
// The second operand where one is NaN.
inline __m512 max_ps(__m512 a, __m512 b) EACH(out[i] = a[i] > b[i] ? a[i] : b[i])
inline __m512 min_ps(__m512 a, __m512 b) EACH(out[i] = a[i] < b[i] ? a[i] : b[i])

template <int PREDICATE>
inline uint16_t cmp_ps_mask(__m512 a, __m512 b) {
  static_assert(PREDICATE == _CMP_LE_OQ);
  uint16_t mask = 0;
  for (int i = 0; i < 16; ++i) mask |= (a[i] <= b[i]) << i;
  return mask;
}

inline float reduce_add_ps(__m512 v) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}
inline float reduce_max_ps(__m512 v) {
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v[i] = v[i] > v[i + width] ? v[i] : v[i + width];
  return v[0];
}

// Less the nearest whole number, the even one of two; 0 for infinities.
template <int CONTROL>
inline __m512 reduce_ps(__m512 v) {
  static_assert(CONTROL == 0);
  EACH(out[i] = std::isinf(v[i]) ? 0.0f : v[i] - std::nearbyint(v[i]))
}
inline __m512 scalef_ps(__m512 a, __m512 b)
    EACH(out[i] = std::isnan(a[i]) || std::isnan(b[i]) ? a[i] + b[i] : a[i] * std::exp2(std::floor(b[i])))

inline __m512 permutexvar_ps(__m512i order, __m512 v) EACH(out[i] = v[lane(order, i) & 15])

// 128 bits each: the first two from a, the last two from b.
template <int CONTROL>
inline __m512 shuffle_f32x4(__m512 a, __m512 b)
    EACH(const __m512 &from = i < 8 ? a : b; out[i] = from[(CONTROL >> 2 * (i / 4) & 3) * 4 + i % 4])
inline __m512 unpacklo_ps(__m512 a, __m512 b) EACH(const __m512 &from = i % 2 ? b : a; out[i] = from[i / 4 * 4 + i % 4 / 2])
inline __m512 unpackhi_ps(__m512 a, __m512 b) EACH(const __m512 &from = i % 2 ? b : a; out[i] = from[i / 4 * 4 + i % 4 / 2 + 2])
inline __m512d unpacklo_pd(__m512d a, __m512d b) {
  for (int i = 1; i < 8; i += 2) a[i] = b[i - 1];
  return a;
}
inline __m512d unpackhi_pd(__m512d a, __m512d b) {
  for (int i = 0; i < 8; i += 2) a[i] = a[i + 1], a[i + 1] = b[i + 1];
  return a;
}

inline __m512 castps128_ps512(__m128 v) EACH(out[i] = v[i % 4])  // what is above is anything
inline __m128 castps512_ps128(__m512 v) { return __m128{v[0], v[1], v[2], v[3]}; }
inline __m256 castps512_ps256(__m512 v) { return __m256{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7]}; }
template <int PART>
inline __m128 extractf32x4_ps(__m512 v) {
  return __m128{v[4 * PART], v[4 * PART + 1], v[4 * PART + 2], v[4 * PART + 3]};
}
template <int PART>
inline __m256 extractf32x8_ps(__m512 v) {
  __m256 out;
  for (int i = 0; i < 8; ++i) out[i] = v[8 * PART + i];
  return out;
}
inline __m512 broadcast_f32x8(__m256 v) EACH(out[i] = v[i % 8])
inline __m512 mask_broadcast_f32x4(__m512 others, uint32_t mask, __m128 v)
    EACH(out[i] = bit(mask, i) ? v[i % 4] : others[i])

inline __m512i integers(const int32_t *lanes) {
  __m512i out;
  __builtin_memcpy(&out, lanes, sizeof(out));
  return out;
}
inline __m512i set1_epi32(int32_t value) {
  int32_t lanes[16];
  for (int32_t &each : lanes) each = value;
  return integers(lanes);
}
template <class... Values>
inline __m512i set_epi32(Values... from_the_last) {
  const int32_t reversed[16] = {from_the_last...};
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = reversed[15 - i];
  return integers(lanes);
}
inline __m512i add_epi32(__m512i a, __m512i b) {
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = lane(a, i) + lane(b, i);
  return integers(lanes);
}
inline __m512i cvtepu16_epi32(__m256i v) {
  uint16_t halves[16];
  __builtin_memcpy(halves, &v, sizeof(v));
  int32_t lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = halves[i];
  return integers(lanes);
}

#undef EACH

}  // namespace stand_in

#define _mm512_set1_ps stand_in::set1_ps
#define _mm512_setzero_ps() stand_in::set1_ps(0.0f)
#define _mm512_loadu_ps stand_in::loadu_ps
#define _mm512_maskz_loadu_ps stand_in::maskz_loadu_ps
#define _mm512_mask_loadu_ps stand_in::mask_loadu_ps
#define _mm512_mask_mov_ps stand_in::mask_mov_ps
#define _mm512_mask_storeu_ps stand_in::mask_storeu_ps
#define _mm512_add_ps stand_in::add_ps
#define _mm512_mul_ps stand_in::mul_ps
#define _mm512_fmadd_ps stand_in::fmadd_ps
#define _mm512_sqrt_ps stand_in::sqrt_ps
#define _mm512_max_ps stand_in::max_ps
#define _mm512_min_ps stand_in::min_ps
#define _mm512_cmp_ps_mask(a, b, predicate) stand_in::cmp_ps_mask<predicate>(a, b)
#define _mm512_reduce_add_ps stand_in::reduce_add_ps
#define _mm512_reduce_max_ps stand_in::reduce_max_ps
#define _mm512_reduce_ps(v, control) stand_in::reduce_ps<control>(v)
#define _mm512_scalef_ps stand_in::scalef_ps
#define _mm512_permutexvar_ps stand_in::permutexvar_ps
#define _mm512_shuffle_f32x4(a, b, control) stand_in::shuffle_f32x4<control>(a, b)
#define _mm512_unpacklo_ps stand_in::unpacklo_ps
#define _mm512_unpackhi_ps stand_in::unpackhi_ps
#define _mm512_unpacklo_pd stand_in::unpacklo_pd
#define _mm512_unpackhi_pd stand_in::unpackhi_pd
#define _mm512_castps128_ps512 stand_in::castps128_ps512
#define _mm512_castps512_ps128 stand_in::castps512_ps128
#define _mm512_castps512_ps256 stand_in::castps512_ps256
#define _mm512_extractf32x4_ps(v, part) stand_in::extractf32x4_ps<part>(v)
#define _mm512_extractf32x8_ps(v, part) stand_in::extractf32x8_ps<part>(v)
#define _mm512_broadcast_f32x8 stand_in::broadcast_f32x8
#define _mm512_mask_broadcast_f32x4 stand_in::mask_broadcast_f32x4
#define _mm512_set1_epi32 stand_in::set1_epi32
#define _mm512_set_epi32 stand_in::set_epi32
#define _mm512_add_epi32 stand_in::add_epi32
#define _mm512_cvtepu16_epi32 stand_in::cvtepu16_epi32
#define asm(...)  // a hint for registers of 512 bits
