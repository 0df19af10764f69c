// A vector of floats as wide as the instruction set that this file is compiled for, with exp and softplus.
//
// Written with the vector types that GCC and Clang share: the same source makes the portable, the AVX2 and the
// AVX-512 library, and runs on other processors too.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>  // compilers need half a second for the other one
#endif

// A file can ask for shorter vectors than the widest ones, by a LGRNET_LANES of its own before it includes this.
#if defined(LGRNET_LANES)
#elif defined(__AVX512F__)
#define LGRNET_LANES 16
#elif defined(__AVX2__)
#define LGRNET_LANES 8
#else
#define LGRNET_LANES 4
#endif

constexpr int LANES = LGRNET_LANES;
#if defined(__AVX512F__)
constexpr int REGISTERS = 32;  // for vectors
#else
constexpr int REGISTERS = 16;
#endif

constexpr int64_t CACHE_LINE = 16;  // floats

typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t IntLanes __attribute__((vector_size(LANES * sizeof(int32_t))));

#define LGRNET_INLINE static inline __attribute__((always_inline))
#define LGRNET_MEMBER __attribute__((always_inline))  // of functions of classes, and of lambdas

// Not 0 + value: that would be an addition, since it makes 0 of -0.
LGRNET_INLINE Lanes all(float value) {
#if LGRNET_LANES == 16
  return _mm512_set1_ps(value);
#elif LGRNET_LANES == 8
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
#if LGRNET_LANES == 16
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
#if LGRNET_LANES == 16
  return _mm512_mask_mov_ps(others, static_cast<__mmask16>((1u << count) - 1), lanes);
#else
  if (count == LANES) return lanes;
  std::memcpy(&others, &lanes, count * sizeof(float));
  return others;
#endif
}

LGRNET_INLINE Lanes load_part_or(const float *place, int count, Lanes others) {
#if LGRNET_LANES == 16
  return _mm512_mask_loadu_ps(others, static_cast<__mmask16>((1u << count) - 1), place);
#else
  if (count == LANES) return load(place);
  std::memcpy(&others, place, count * sizeof(float));
  return others;
#endif
}

LGRNET_INLINE void store_part(float *place, Lanes lanes, int count) {
#if LGRNET_LANES == 16
  _mm512_mask_storeu_ps(place, static_cast<__mmask16>((1u << count) - 1), lanes);
#else
  if (count == LANES)
    store(place, lanes);
  else
    std::memcpy(place, &lanes, count * sizeof(float));
#endif
}

LGRNET_INLINE float sum(Lanes lanes) {
#if LGRNET_LANES == 16
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
#if LGRNET_LANES == 16
  return _mm512_reduce_max_ps(lanes);
#else
  float half[LANES];
  store(half, lanes);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) half[i] = half[i] > half[i + width] ? half[i] : half[i + width];
  return half[0];
#endif
}

// Whether every lane is; NaN is not.
LGRNET_INLINE bool all_at_most(Lanes lanes, float limit) {
#if LGRNET_LANES == 16
  return _mm512_cmp_ps_mask(lanes, _mm512_set1_ps(limit), _CMP_LE_OQ) == 0xFFFF;
#elif LGRNET_LANES == 8
  return _mm256_movemask_ps(_mm256_cmp_ps(lanes, _mm256_set1_ps(limit), _CMP_LE_OQ)) == 0xFF;
#else
  const IntLanes fits = lanes <= all(limit);
  int count = 0;
  for (int lane = 0; lane < LANES; ++lane) count += fits[lane] != 0;
  return count == LANES;
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

// N vectors that go the same way side by side: their chains of operations overlap, and a constant in a register serves
// all of them.
template <int N, int = LANES>  // LANES tells those of files with other vectors apart
struct Several {
  Lanes v[N];

  Lanes &operator[](int i) { return v[i]; }
  const Lanes &operator[](int i) const { return v[i]; }
  static constexpr int size() { return N; }
};

template <int N, class Function>
LGRNET_INLINE Several<N> each(Function function) {
  Several<N> result;
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) result[i] = function(i);
  return result;
}

#define LGRNET_SEVERAL(sign)                                                                        \
  template <int N>                                                                                  \
  LGRNET_INLINE Several<N> operator sign(const Several<N> &a, const Several<N> &b) {                \
    return each<N>([&](int i) { return a[i] sign b[i]; });           \
  }                                                                                                 \
  template <int N>                                                                                  \
  LGRNET_INLINE Several<N> operator sign(const Several<N> &a, Lanes b) {                            \
    return each<N>([&](int i) { return a[i] sign b; });              \
  }
LGRNET_SEVERAL(+)
LGRNET_SEVERAL(-)
LGRNET_SEVERAL(*)
LGRNET_SEVERAL(/)
#undef LGRNET_SEVERAL

// The larger (smaller) of the two; x where one is NaN. One instruction, which compilers do not make of a comparison and a
// choice.
LGRNET_INLINE Lanes at_least(Lanes x, Lanes limit) {
#if LGRNET_LANES == 16
  return _mm512_max_ps(limit, x);
#elif LGRNET_LANES == 8
  return _mm256_max_ps(limit, x);
#elif defined(__SSE2__)
  return _mm_max_ps(limit, x);
#else
  return x < limit ? limit : x;
#endif
}

LGRNET_INLINE Lanes at_most(Lanes x, Lanes limit) {
#if LGRNET_LANES == 16
  return _mm512_min_ps(limit, x);
#elif LGRNET_LANES == 8
  return _mm256_min_ps(limit, x);
#elif defined(__SSE2__)
  return _mm_min_ps(limit, x);
#else
  return x > limit ? limit : x;
#endif
}

// -|x|
LGRNET_INLINE Lanes negative(Lanes x) { return bits_as_float(float_as_bits(x) | INT32_MIN); }
LGRNET_INLINE Lanes magnitude(Lanes x) { return bits_as_float(float_as_bits(x) & INT32_MAX); }

// The same in a register, for what follows: constants that are taken from memory at every use keep the loads of an AVX2
// machine busier than its arithmetic.
LGRNET_INLINE Lanes held(Lanes lanes) {
#if LGRNET_LANES == 8
  asm volatile("" : "+v"(lanes));
#endif
  return lanes;
}

// Below, V is Lanes or Several of them.

// 2^f for -0.5 <= f <= 0.5, from its highest power on: minimax in the relative error, 9e-8, among the polynomials that are
// 1 at 0.
constexpr float EXP2_FRACTION[] = {1.3264727e-3f, 9.6715126e-3f, 5.5507337e-2f, 2.4022242e-1f, 6.9314698e-1f, 1.0f};

template <class V>
LGRNET_INLINE V exp2_fraction(V f) {
  V p = f * held(all(EXP2_FRACTION[0])) + held(all(EXP2_FRACTION[1]));
#pragma GCC unroll 4
  for (int i = 2; i < 6; ++i) p = p * f + held(all(EXP2_FRACTION[i]));
  return p;
}

// The limits of what exp2_within can do.
constexpr float EXP2_MOST = 125.0f;

// 2^x to 2e-7 of its value for -EXP2_MOST <= x <= EXP2_MOST.
template <int N>
LGRNET_INLINE Several<N> exp2_within(const Several<N> &x) {
#if LGRNET_LANES == 16
  // x less the nearest whole number
  const auto f = each<N>([&](int i) { return _mm512_reduce_ps(x[i], 0); });
  const auto p = exp2_fraction(f), whole = x - f;
  return each<N>([&](int i) { return _mm512_scalef_ps(p[i], whole[i]); });
#else
  const Lanes magic = held(all(12582912.0f));  // 1.5 * 2^23: adding it rounds to a whole number in the low bits
  const auto shifted = x + magic;
  const auto p = exp2_fraction(x - (shifted - magic));
  return each<N>([&](int i) {
    return bits_as_float(float_as_bits(p[i]) + (float_as_bits(shifted[i]) << 23));
  });
#endif
}

// The same for every x: NaN for NaN, infinite from 2^128 on. What is below 2^-125 may stay there instead of 0.
template <int N>
LGRNET_INLINE Several<N> exp2(const Several<N> &x) {
#if LGRNET_LANES == 16
  return exp2_within(x);
#else
  return exp2_within(each<N>([&](int i) {
    return at_most(at_least(x[i], all(-EXP2_MOST)), all(128.0f));
  }));
#endif
}

LGRNET_INLINE Lanes exp2(Lanes x) { return exp2(Several<1>{{x}})[0]; }

// The same for x < 128.
template <int N>
LGRNET_INLINE Several<N> exp2_below_128(const Several<N> &x) {
#if LGRNET_LANES == 16
  return exp2_within(x);
#else
  return exp2_within(each<N>([&](int i) { return at_least(x[i], all(-EXP2_MOST)); }));
#endif
}

LGRNET_INLINE Lanes exp2_below_128(Lanes x) { return exp2_below_128(Several<1>{{x}})[0]; }

constexpr float LOG2_E = 1.44269504088896340736f;

template <class V>
LGRNET_INLINE V exp(const V &x) {
  return exp2(x * all(LOG2_E));
}

// log(1 + t) for 0 <= t <= 1 to 2e-7 of its value: log(1 + t) / t is minimax in the relative error, 3e-8.
template <class V>
LGRNET_INLINE V log1p_unit(V t) {
  V p = t * all(5.23269069e-3f) + all(-2.95052289e-2f);
  p = p * t + all(7.82259443e-2f);
  p = p * t + all(-1.3663246e-1f);
  p = p * t + all(1.91060074e-1f);
  p = p * t + all(-2.48429826e-1f);
  p = p * t + all(3.33190969e-1f);
  p = p * t + all(-4.99994931e-1f);
  p = p * t + all(9.9999997e-1f);
  return p * t;
}

// log(1 + exp(x)), NaN for NaN, and its derivative 1 / (1 + exp(-x)), both without overflow on either side.
template <int N>
LGRNET_INLINE Several<N> softplus(const Several<N> &x, Several<N> &slope) {
  const auto small = exp(each<N>([&](int i) { return negative(x[i]); }));
  const auto numerator =
      each<N>([&](int i) { return x[i] < all(0.0f) ? small[i] : all(1.0f); });
  slope = numerator / (small + all(1.0f));
  return each<N>([&](int i) { return at_least(x[i], all(0.0f)); }) + log1p_unit(small);
}

template <int N>
LGRNET_INLINE Several<N> softplus(const Several<N> &x) {
  Several<N> slope;
  return softplus(x, slope);
}
