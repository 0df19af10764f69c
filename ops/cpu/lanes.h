// A vector of floats as wide as the instruction set that this file is compiled for, with exp and softplus.
//
// Written with the vector types that GCC and Clang share: the same source makes the portable, the AVX2 and the
// AVX-512 library, and runs on other processors too.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t IntLanes __attribute__((vector_size(LANES * sizeof(int32_t))));

#define LGRNET_INLINE static inline __attribute__((always_inline))
#define LGRNET_MEMBER __attribute__((always_inline))  // of functions of classes, and of lambdas

// Not 0 + value: that would be an addition, since it makes 0 of -0.
LGRNET_INLINE Lanes all(float value) {
#if defined(__AVX512F__)
  return _mm512_set1_ps(value);
#elif defined(__AVX2__)
  return _mm256_set1_ps(value);
#else
  return Lanes{value, value, value, value};
#endif
}

LGRNET_INLINE Lanes load(const float *place) {
  Lanes lanes;
  std::memcpy(&lanes, place, sizeof(lanes));
  return lanes;
}

LGRNET_INLINE void store(float *place, Lanes lanes) { std::memcpy(place, &lanes, sizeof(lanes)); }

// The first `count` floats; the other lanes are 0.
LGRNET_INLINE Lanes load_part(const float *place, int count) {
#if defined(__AVX512F__)
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), place);
#else
  if (count == LANES) return load(place);
  Lanes lanes{};
  std::memcpy(&lanes, place, count * sizeof(float));
  return lanes;
#endif
}

// The first `count` lanes, then those of `others`.
LGRNET_INLINE Lanes first_lanes(Lanes lanes, int count, Lanes others = Lanes{}) {
#if defined(__AVX512F__)
  return _mm512_mask_mov_ps(others, static_cast<__mmask16>((1u << count) - 1), lanes);
#else
  if (count == LANES) return lanes;
  std::memcpy(&others, &lanes, count * sizeof(float));
  return others;
#endif
}

LGRNET_INLINE Lanes load_part_or(const float *place, int count, Lanes others) {
#if defined(__AVX512F__)
  return _mm512_mask_loadu_ps(others, static_cast<__mmask16>((1u << count) - 1), place);
#else
  if (count == LANES) return load(place);
  std::memcpy(&others, place, count * sizeof(float));
  return others;
#endif
}

LGRNET_INLINE void store_part(float *place, Lanes lanes, int count) {
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(place, static_cast<__mmask16>((1u << count) - 1), lanes);
#else
  if (count == LANES)
    store(place, lanes);
  else
    std::memcpy(place, &lanes, count * sizeof(float));
#endif
}

LGRNET_INLINE float sum(Lanes lanes) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps(lanes);
#else
  float half[LANES];
  store(half, lanes);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) half[i] += half[i + width];
  return half[0];
#endif
}

LGRNET_INLINE float largest(Lanes lanes) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps(lanes);
#else
  float half[LANES];
  store(half, lanes);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) half[i] = half[i] > half[i + width] ? half[i] : half[i + width];
  return half[0];
#endif
}

// a > b ? a : b and a < b ? a : b: b where either is NaN. One instruction, which GCC does not find.
LGRNET_INLINE Lanes larger(Lanes a, Lanes b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_max_ps(a, b);
#elif defined(__SSE2__)
  return _mm_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

LGRNET_INLINE Lanes smaller(Lanes a, Lanes b) {
#if defined(__AVX512F__)
  return _mm512_min_ps(a, b);
#elif defined(__AVX2__)
  return _mm256_min_ps(a, b);
#elif defined(__SSE2__)
  return _mm_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

LGRNET_INLINE Lanes bits_as_float(IntLanes bits) {
  Lanes lanes;
  std::memcpy(&lanes, &bits, sizeof(lanes));
  return lanes;
}

LGRNET_INLINE IntLanes float_as_bits(Lanes lanes) {
  IntLanes bits;
  std::memcpy(&bits, &lanes, sizeof(bits));
  return bits;
}

// 2^f for -0.5 <= f <= 0.5: minimax in the relative error, 9e-8, among the polynomials that are 1 at 0.
LGRNET_INLINE Lanes exp2_fraction(Lanes f) {
  Lanes p = all(1.3264727e-3f);
  p = p * f + all(9.6715126e-3f);
  p = p * f + all(5.5507337e-2f);
  p = p * f + all(2.4022242e-1f);
  p = p * f + all(6.9314698e-1f);
  return p * f + all(1.0f);
}

// 2^x for x < 128 to 2e-7 of its value; NaN for NaN. What is below 2^-125 may stay there instead of 0.
LGRNET_INLINE Lanes exp2_below_128(Lanes x) {
#if defined(__AVX512DQ__)
  const Lanes f = _mm512_reduce_ps(x, 0);  // x less the nearest whole number
  return _mm512_scalef_ps(exp2_fraction(f), x - f);
#else
  x = larger(all(-125.0f), x);
  const Lanes magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to a whole number in the low bits
  const Lanes shifted = x + magic;
  const Lanes p = exp2_fraction(x - (shifted - magic));
  return bits_as_float(float_as_bits(p) + (float_as_bits(shifted) << 23));
#endif
}

// The same for any x: infinite from 2^128 on.
LGRNET_INLINE Lanes exp2(Lanes x) {
#if defined(__AVX512DQ__)
  return exp2_below_128(x);
#else
  return exp2_below_128(smaller(all(128.0f), x));
#endif
}

constexpr float LOG2_E = 1.44269504088896340736f;

LGRNET_INLINE Lanes exp(Lanes x) { return exp2(x * all(LOG2_E)); }

// log(1 + t) for 0 <= t <= 1 to 2e-7 of its value: log(1 + t) / t is minimax in the relative error, 3e-8.
LGRNET_INLINE Lanes log1p_unit(Lanes t) {
  Lanes p = all(5.23269069e-3f);
  p = p * t + all(-2.95052289e-2f);
  p = p * t + all(7.82259443e-2f);
  p = p * t + all(-1.3663246e-1f);
  p = p * t + all(1.91060074e-1f);
  p = p * t + all(-2.48429826e-1f);
  p = p * t + all(3.33190969e-1f);
  p = p * t + all(-4.99994931e-1f);
  p = p * t + all(9.9999997e-1f);
  return p * t;
}

LGRNET_INLINE Lanes magnitude(Lanes x) { return x < all(0.0f) ? -x : x; }

// log(1 + exp(x)), NaN for NaN, and its derivative 1 / (1 + exp(-x)), both without overflow on either side.
LGRNET_INLINE Lanes softplus(Lanes x, Lanes &slope) {
  const Lanes positive = x < all(0.0f) ? all(0.0f) : x, small = exp(-magnitude(x));
  slope = (x < all(0.0f) ? small : all(1.0f)) / (all(1.0f) + small);
  return positive + log1p_unit(small);
}

LGRNET_INLINE Lanes softplus(Lanes x) {
  Lanes slope;
  return softplus(x, slope);
}
