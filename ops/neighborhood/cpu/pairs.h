// The way forward of LGRNet's sizes with AVX-512: 8 heads of 8 channels, a window of 5 x 5.
//
// A vector is a pair of channels of the 8 heads of a token, one line of the caches. Its halves are summed for
// themselves, and the logits of two keys make one vector of heads again, so that half as many exponentials are needed.
// The 25th key stands in both halves of the last vector, and counts once.
#pragma once

#if defined(__AVX512F__)

#include <cstdint>
#include <cstring>

#include "planes.h"

namespace neighborhood {

constexpr int SIDE = 5, TWOS = (SIDE * SIDE + 1) / 2, PAIRS = 4;  // of a window; vectors of two keys; of 8 channels

// The lower, or the upper, halves of a and b.
LGRNET_INLINE Pair lower(Pair a, Pair b) { return _mm512_shuffle_f32x4(a, b, 0x44); }
LGRNET_INLINE Pair upper(Pair a, Pair b) { return _mm512_shuffle_f32x4(a, b, 0xEE); }
LGRNET_INLINE Pair halves_added(Pair a, Pair b) { return lower(a, b) + upper(a, b); }

// 2^x: exp2_within for a vector of twice the length.
LGRNET_INLINE Pair exp2(Pair x) {
  const Pair f = _mm512_reduce_ps(x, 0);
  Pair p = f * EXP2_FRACTION[0] + EXP2_FRACTION[1];
#pragma GCC unroll 4
  for (int i = 2; i < 6; ++i) p = p * f + EXP2_FRACTION[i];
  return _mm512_scalef_ps(p, x - f);
}

// Where a query's keys, or their values, lie: number n is at row n % SIDE, column n / SIDE of its window.
struct Places {
  const float *const *rows;
  int64_t first, step;

  LGRNET_MEMBER const float *operator[](int n) const { return rows[n % SIDE] + first + n / SIDE * step; }
};

// From a query [8], times what takes logits to base 2, the exponentials of its logits less the largest. Returns their
// sums, in both halves.
LGRNET_INLINE Pair weigh(Places keys, const Pair *query, Pair *weights) {
  const auto product = [&](int n) LGRNET_MEMBER {
    const float *key = keys[n];
    Pair sum = query[0] * load_pair(key);
#pragma GCC unroll 3
    for (int c = 1; c < PAIRS; ++c) sum += query[c] * load_pair(key + 16 * c);
    return sum;
  };
  Pair most;
#pragma GCC unroll 13
  for (int n = 0; n < TWOS; ++n) {
    const Pair one = product(2 * n);
    weights[n] = halves_added(one, n < TWOS - 1 ? product(2 * n + 1) : one);
    most = n ? (Pair)_mm512_max_ps(most, weights[n]) : weights[n];
  }
  most = _mm512_max_ps(lower(most, most), upper(most, most));
  Pair total{};
#pragma GCC unroll 13
  for (int n = 0; n < TWOS; ++n) {
    weights[n] = exp2(weights[n] - most);
    if (n < TWOS - 1) total += weights[n];
  }
  return halves_added(total, total) + weights[TWOS - 1];
}

// The sums [8] of the values with these weights.
LGRNET_INLINE void add(Places values, const Pair *weights, Pair *sums) {
  Pair two[2][PAIRS] = {};  // of even and odd keys: chains of additions
  const auto add_one = [&](int n, Pair weight) LGRNET_MEMBER {
    const float *value = values[n];
#pragma GCC unroll 4
    for (int c = 0; c < PAIRS; ++c) two[n % 2][c] += weight * load_pair(value + 16 * c);
  };
#pragma GCC unroll 13
  for (int n = 0; n < TWOS; ++n) {
    add_one(2 * n, lower(weights[n], weights[n]));
    if (n < TWOS - 1) add_one(2 * n + 1, upper(weights[n], weights[n]));
  }
#pragma GCC unroll 4
  for (int c = 0; c < PAIRS; ++c) sums[c] = two[0][c] + two[1][c];
}

// The output [8] of a block, a token's heads, from its queries [8].
LGRNET_INLINE void attend(Places keys, Places values, const Lanes *queries, Lanes *out) {
  Pair query[PAIRS], weights[TWOS], sums[PAIRS];
  for (int c = 0; c < PAIRS; ++c) query[c] = load_pair(reinterpret_cast<const float *>(queries + 2 * c)) * LOG2_E;
  const Pair total = weigh(keys, query, weights);
  add(values, weights, sums);
  for (int c = 0; c < PAIRS; ++c) store_pair(reinterpret_cast<float *>(out + 2 * c), sums[c] / total);
}

}  // namespace neighborhood

#endif
