// Transposes by networks of shuffles.
#pragma once

#include "lanes.h"

// Lanes of a and b by their numbers, which are constants; those of b go on after those of a.
#if defined(__clang__)
#define LGRNET_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define LGRNET_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntLanes{__VA_ARGS__})
#endif

#if defined(__AVX512F__)
#define LGRNET_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define LGRNET_ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define LGRNET_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define LGRNET_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif defined(__AVX2__)
#define LGRNET_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define LGRNET_ODD 1, 3, 5, 7, 9, 11, 13, 15
#define LGRNET_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define LGRNET_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define LGRNET_EVEN 0, 2, 4, 6
#define LGRNET_ODD 1, 3, 5, 7
#define LGRNET_LOW 0, 4, 1, 5
#define LGRNET_HIGH 2, 6, 3, 7
#endif

// LANES rows of D floats, one after the other in D vectors, become D columns of LANES floats. D is a power of two:
// taking the even places before the odd ones moves the lowest bit of a place's number to its top, log2(D) times.
template <int D>
LGRNET_INLINE void rows_to_columns(Lanes *v) {
  static_assert((D & (D - 1)) == 0, "D is a power of two");
  for (int step = 1; step < D; step *= 2) {
    Lanes next[D];
    for (int i = 0; i < D / 2; ++i) {
      next[i] = LGRNET_SHUFFLE(v[2 * i], v[2 * i + 1], LGRNET_EVEN);
      next[i + D / 2] = LGRNET_SHUFFLE(v[2 * i], v[2 * i + 1], LGRNET_ODD);
    }
    for (int i = 0; i < D; ++i) v[i] = next[i];
  }
}

// The way back.
template <int D>
LGRNET_INLINE void columns_to_rows(Lanes *v) {
  static_assert((D & (D - 1)) == 0, "D is a power of two");
  for (int step = 1; step < D; step *= 2) {
    Lanes next[D];
    for (int i = 0; i < D / 2; ++i) {
      next[2 * i] = LGRNET_SHUFFLE(v[i], v[i + D / 2], LGRNET_LOW);
      next[2 * i + 1] = LGRNET_SHUFFLE(v[i], v[i + D / 2], LGRNET_HIGH);
    }
    for (int i = 0; i < D; ++i) v[i] = next[i];
  }
}
