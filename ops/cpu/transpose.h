// Transposes by networks of shuffles.
#pragma once

#include "lanes.h"

// Within each 128 bits: the lower (upper) halves of a and b, taken in turns by single floats or by pairs.
#if LGRNET_LANES == 16
LGRNET_INLINE Lanes weave_low(Lanes a, Lanes b) { return _mm512_unpacklo_ps(a, b); }
LGRNET_INLINE Lanes weave_high(Lanes a, Lanes b) { return _mm512_unpackhi_ps(a, b); }
LGRNET_INLINE Lanes join_low(Lanes a, Lanes b) { return (Lanes)_mm512_unpacklo_pd((__m512d)a, (__m512d)b); }
LGRNET_INLINE Lanes join_high(Lanes a, Lanes b) { return (Lanes)_mm512_unpackhi_pd((__m512d)a, (__m512d)b); }
#elif LGRNET_LANES == 8
LGRNET_INLINE Lanes weave_low(Lanes a, Lanes b) { return _mm256_unpacklo_ps(a, b); }
LGRNET_INLINE Lanes weave_high(Lanes a, Lanes b) { return _mm256_unpackhi_ps(a, b); }
LGRNET_INLINE Lanes join_low(Lanes a, Lanes b) { return (Lanes)_mm256_unpacklo_pd((__m256d)a, (__m256d)b); }
LGRNET_INLINE Lanes join_high(Lanes a, Lanes b) { return (Lanes)_mm256_unpackhi_pd((__m256d)a, (__m256d)b); }
#else
// Lanes of a and b by their numbers, which are constants; those of b go on after those of a.
#if defined(__clang__)
#define LGRNET_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LGRNET_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntLanes{__VA_ARGS__})
#endif
LGRNET_INLINE Lanes weave_low(Lanes a, Lanes b) { return LGRNET_SHUFFLE(a, b, 0, 4, 1, 5); }
LGRNET_INLINE Lanes weave_high(Lanes a, Lanes b) { return LGRNET_SHUFFLE(a, b, 2, 6, 3, 7); }
LGRNET_INLINE Lanes join_low(Lanes a, Lanes b) { return LGRNET_SHUFFLE(a, b, 0, 1, 4, 5); }
LGRNET_INLINE Lanes join_high(Lanes a, Lanes b) { return LGRNET_SHUFFLE(a, b, 2, 3, 6, 7); }
#endif

// Transposes the 4 x 4 floats that each 128 bits of four vectors make; its own way back.
LGRNET_INLINE void transpose_fours(Lanes *v) {
  const Lanes a = weave_low(v[0], v[1]), b = weave_low(v[2], v[3]);
  const Lanes c = weave_high(v[0], v[1]), d = weave_high(v[2], v[3]);
  v[0] = join_low(a, b);
  v[1] = join_high(a, b);
  v[2] = join_low(c, d);
  v[3] = join_high(c, d);
}

// Sums across the lanes of LANES vectors in two steps, of which the first needs only four of them at a time: in each
// 128 bits the sums there of four vectors, and then those of LANES / 4 such vectors across all lanes.
LGRNET_INLINE Lanes sums_of_four(const Lanes *v) {
  const Lanes a = weave_low(v[0], v[1]) + weave_high(v[0], v[1]), b = weave_low(v[2], v[3]) + weave_high(v[2], v[3]);
  return join_low(a, b) + join_high(a, b);
}

LGRNET_INLINE Lanes sums_of_fours(const Lanes *v) {
#if LGRNET_LANES == 16
  const Lanes a = _mm512_shuffle_f32x4(v[0], v[1], 0x88) + _mm512_shuffle_f32x4(v[0], v[1], 0xDD);
  const Lanes b = _mm512_shuffle_f32x4(v[2], v[3], 0x88) + _mm512_shuffle_f32x4(v[2], v[3], 0xDD);
  return _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xDD);
#elif LGRNET_LANES == 8
  return _mm256_permute2f128_ps(v[0], v[1], 0x20) + _mm256_permute2f128_ps(v[0], v[1], 0x31);
#else
  return v[0];
#endif
}

// columns[c * step] becomes the number c of LANES rows that begin `stride` floats apart.
LGRNET_INLINE void gather_columns(const float *first, int64_t stride, int64_t count, Lanes *columns, int64_t step = 1) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    Lanes v[4];
    for (int r = 0; r < 4; ++r) {  // row r + 4 j goes to the j-th 128 bits
      const float *row = first + r * stride + c;
#if LGRNET_LANES == 16
      v[r] = _mm512_castps128_ps512(_mm_loadu_ps(row));
      v[r] = _mm512_mask_broadcast_f32x4(v[r], 0x00F0, _mm_loadu_ps(row + 4 * stride));
      v[r] = _mm512_mask_broadcast_f32x4(v[r], 0x0F00, _mm_loadu_ps(row + 8 * stride));
      v[r] = _mm512_mask_broadcast_f32x4(v[r], 0xF000, _mm_loadu_ps(row + 12 * stride));
#elif LGRNET_LANES == 8
      v[r] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row)), _mm_loadu_ps(row + 4 * stride), 1);
#else
      v[r] = load(row);
#endif
    }
    transpose_fours(v);
    for (int k = 0; k < 4; ++k) columns[(c + k) * step] = v[k];
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < LANES; ++lane) columns[c * step][lane] = first[lane * stride + c];
}

// The way back: all rows are written.
LGRNET_INLINE void scatter_columns(const Lanes *columns, int64_t count, float *first, int64_t stride,
                                   int64_t step = 1) {
  int64_t c = 0;
  for (; c + 4 <= count; c += 4) {
    Lanes v[4];
    for (int k = 0; k < 4; ++k) v[k] = columns[(c + k) * step];
    transpose_fours(v);
    for (int r = 0; r < 4; ++r) {
      float *row = first + r * stride + c;
#if LGRNET_LANES == 16
      _mm_storeu_ps(row, _mm512_castps512_ps128(v[r]));
      _mm_storeu_ps(row + 4 * stride, _mm512_extractf32x4_ps(v[r], 1));
      _mm_storeu_ps(row + 8 * stride, _mm512_extractf32x4_ps(v[r], 2));
      _mm_storeu_ps(row + 12 * stride, _mm512_extractf32x4_ps(v[r], 3));
#elif LGRNET_LANES == 8
      _mm_storeu_ps(row, _mm256_castps256_ps128(v[r]));
      _mm_storeu_ps(row + 4 * stride, _mm256_extractf128_ps(v[r], 1));
#else
      store(row, v[r]);
#endif
    }
  }
  for (; c < count; ++c)
    for (int lane = 0; lane < LANES; ++lane) first[lane * stride + c] = columns[c * step][lane];
}
