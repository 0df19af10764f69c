// What the scan's ways forward and back share: the sizes and inputs, and one direction's weights.
//
// Letters as in ops/scan/__init__.py: B clips, L tokens, D channels, G directions, R rank of dt, N states.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/transpose.h"

namespace scan {

constexpr int MOST_STATES = 256;
constexpr int64_t STEPS = 4;  // time steps that are computed side by side

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

// States in memory are [D, N]; here they are [N] vectors over the lanes.
inline void load_state(const float *from, Lanes *state, int count, int64_t states) {
  if (count == LANES) return gather_columns(from, states, states, state);
  for (int64_t n = 0; n < states; ++n) {
    state[n] = Lanes{};
    for (int lane = 0; lane < count; ++lane) state[n][lane] = from[lane * states + n];
  }
}

inline void store_state(float *to, const Lanes *state, int count, int64_t states) {
  if (count == LANES) return scatter_columns(state, states, to, states);
  for (int64_t n = 0; n < states; ++n)
    for (int lane = 0; lane < count; ++lane) to[lane * states + n] = state[n][lane];
}

// The weights of one direction for one block of channels, with the channels in the lanes.
struct Block {
  std::vector<Lanes> weight, rate;  // [R], [N]; rate is A log2(e), so that exp2(delta rate) = exp(delta A)
  Lanes bias, skip, fastest;        // the largest magnitude of the rates

  Block(const Problem &p, int64_t g, int64_t block) : weight(p.rank), rate(p.states), bias{}, skip{}, fastest{} {
    const int count = p.width(block);
    const int64_t row = g * p.channels + block * LANES;
    load_state(p.dt_weight + row * p.rank, weight.data(), count, p.rank);
    load_state(p.a + row * p.states, rate.data(), count, p.states);
    for (Lanes &r : rate) r *= all(LOG2_E);
    bias = load_part(p.dt_bias + row, count);
    skip = load_part(p.skip + row, count);
    for (const Lanes &r : rate) fastest = at_least(magnitude(r), fastest);
  }

  // The time steps delta [count rounded up to STEPS] of a clip's tokens and, where SLOPES, softplus's derivative.
  template <bool SLOPES>
  void find_steps(const Problem &p, int64_t clip, int64_t g, const int32_t *order, int64_t count, Lanes *delta,
                  Lanes *slope) const {
    for (int64_t i = 0; i < count; i += STEPS) {
      const float *dt[STEPS];
      for (int64_t k = 0; k < STEPS; ++k) dt[k] = p.dt.of(clip * p.tokens + order[std::min(i + k, count - 1)], g);
      auto raw = each<STEPS>([&](int) { return bias; });
      for (int64_t r = 0; r < p.rank; ++r) raw = raw + each<STEPS>([&](int k) { return weight[r] * all(dt[k][r]); });
      Several<STEPS> slopes;
      const auto steps = softplus(raw, slopes);
      for (int k = 0; k < STEPS; ++k) {
        delta[i + k] = steps[k];
        if (SLOPES) slope[i + k] = slopes[k];
      }
    }
  }

  // Whether exp2_within can do delta rate for all states.
  bool within(Lanes delta) const { return all_at_most(delta * fastest, EXP2_MOST); }
};

// The rows of up to `size` of a clip's tokens, of x or y [B, L, D], as [blocks, size] vectors and back. Whole rows at a
// time: a block's part of all of them lies in one place each of many lines, which push each other out of the cache.
struct Tile {
  int64_t first, end, size;  // blocks first .. end - 1
  std::vector<Lanes> lanes;

  Tile(int64_t first_, int64_t end_, int64_t size_)
      : first(first_), end(end_), size(size_), lanes((end_ - first_) * size_) {}

  Lanes *of(int64_t block) { return &lanes[(block - first) * size]; }

  void gather(const Problem &p, const float *rows, int64_t clip, const int32_t *order, int64_t count) {
    each_row(p, clip, order, count, [&](int64_t row, int64_t i, int64_t whole, int part) {
      const float *from = rows + row;
      Lanes *to = &lanes[i];
      for (int64_t block = first; block < whole; ++block, to += size) *to = load(from + block * LANES);
      if (part) *to = load_part(from + whole * LANES, part);
    });
  }

  template <bool ADD>
  void scatter(const Problem &p, float *rows, int64_t clip, const int32_t *order, int64_t count) const {
    each_row(p, clip, order, count, [&](int64_t row, int64_t i, int64_t whole, int part) {
      const Lanes *from = &lanes[i];
      float *to = rows + row;
      for (int64_t block = first; block < whole; ++block, from += size)
        store(to + block * LANES, ADD ? load(to + block * LANES) + *from : *from);
      to += whole * LANES;
      if (part) store_part(to, ADD ? load_part(to, part) + *from : *from, part);
    });
  }

 private:
  // Calls work(where the row begins, number in the tile, end of the whole blocks, width of one that is not whole or 0).
  template <class Work>
  void each_row(const Problem &p, int64_t clip, const int32_t *order, int64_t count, Work work) const {
    const int64_t whole = std::min(end, p.channels / LANES);
    const int part = whole < end ? p.width(whole) : 0;
    for (int64_t i = 0; i < count; ++i) work((clip * p.tokens + order[i]) * p.channels, i, whole, part);
  }
};

}  // namespace scan
