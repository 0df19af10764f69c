// What the scan's ways forward and back share: the sizes and inputs, and one direction's weights.
//
// Letters as in ops/scan/__init__.py: B clips, L tokens, D channels, G directions, R rank of dt, N states.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../cpu/lanes.h"

namespace scan {

constexpr int MOST_STATES = 256;

// dt, B or C: a short row for each token and direction, which may be parts of longer ones.
struct Rows {
  const float *first;
  int64_t token, direction;  // from one to the next, in floats

  const float *of(int64_t t, int64_t g) const { return first + t * token + g * direction; }
};

struct Problem {
  const float *x;
  Rows dt, b, c;
  const float *dt_weight, *dt_bias, *a, *skip;
  const int32_t *order;
  int64_t clips, tokens, channels, directions, rank, states, interval;

  int64_t blocks() const { return (channels + LANES - 1) / LANES; }
  int64_t chunks() const { return (tokens + interval - 1) / interval; }
  int width(int64_t block) const { return static_cast<int>(std::min<int64_t>(LANES, channels - block * LANES)); }
};

// The weights of one direction for one block of channels, with the channels in the lanes.
struct Block {
  std::vector<Lanes> weight, rate;  // [R], [N]; rate is A log2(e), so that exp2(delta rate) = exp(delta A)
  Lanes bias, skip;

  Block(const Problem &p, int64_t g, int64_t block) : weight(p.rank), rate(p.states), bias{}, skip{} {
    const int count = p.width(block);
    const int64_t row = g * p.channels + block * LANES;
    for (int lane = 0; lane < count; ++lane) {
      for (int64_t r = 0; r < p.rank; ++r) weight[r][lane] = p.dt_weight[(row + lane) * p.rank + r];
      for (int64_t n = 0; n < p.states; ++n) rate[n][lane] = p.a[(row + lane) * p.states + n] * LOG2_E;
      bias[lane] = p.dt_bias[row + lane];
      skip[lane] = p.skip[row + lane];
    }
  }

  Lanes raw_step(const float *dt, int64_t rank) const {
    Lanes z = bias;
    for (int64_t r = 0; r < rank; ++r) z += weight[r] * all(dt[r]);
    return z;
  }
};

// States in memory are [D, N]; here they are [N] vectors over the lanes.
inline void load_state(const float *from, Lanes *state, int count, int64_t states) {
  for (int64_t n = 0; n < states; ++n) {
    state[n] = Lanes{};
    for (int lane = 0; lane < count; ++lane) state[n][lane] = from[lane * states + n];
  }
}

inline void store_state(float *to, const Lanes *state, int count, int64_t states) {
  for (int64_t n = 0; n < states; ++n)
    for (int lane = 0; lane < count; ++lane) to[lane * states + n] = state[n][lane];
}

}  // namespace scan
