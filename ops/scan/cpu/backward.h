// The scan's way back. Letters as in problem.h.
#pragma once

#include "../../cpu/transpose.h"
#include "problem.h"

namespace scan {

struct Gradients {
  const float *dy, *dlast;  // of y [B, L, D] and of the last state [B, G, D, N] or null
  float *dx;                // [B, L, D], or [G, B, L, D] when directions are worked on at the same time
  bool apart;               // the latter
  float *ddt, *db, *dc;     // as dt, B, C
  float *dweight, *dbias, *da, *dskip;  // [B, G, ...]: each clip adds to its own
  float *dinitial;                      // [B, G, D, N] or null
};

// Adds up to LANES sums; the first block of channels writes.
LGRNET_INLINE void add_sums(Lanes sums, int64_t count, float *to, bool first) {
  const int part = static_cast<int>(std::min<int64_t>(LANES, count));
  store_part(to, first ? sums : load_part(to, part) + sums, part);
}

// One direction of one clip, a chunk of tokens at a time from the last to the first, and in it one block of channels
// after the other: what a block needs of all tokens of a chunk stays in the nearest caches.
template <int FIXED>
struct Backward {
  static constexpr int MOST = FIXED ? FIXED : MOST_STATES;

  // Of a token: its place, time step and input, and the derivative of softplus.
  struct Step {
    int64_t token;
    Lanes delta, x, slope;
  };

  const Problem &p;
  const Gradients &grad;
  const float *checkpoints;
  int64_t clip, g, states;
  std::vector<Block> weights;
  std::vector<Lanes> dh, dweight, dbias, dskip, drate;  // [blocks, ...]
  std::vector<Lanes> kept, decay;                       // [interval, N]: exp(delta A), alone and times the state before
  std::vector<Step> steps;                              // [interval]
  std::vector<Lanes> ddt;                               // [interval, R]

  Backward(const Problem &problem, const Gradients &gradients, const float *from, int64_t clip_, int64_t g_)
      : p(problem), grad(gradients), checkpoints(from), clip(clip_), g(g_), states(FIXED ? FIXED : problem.states) {
    const int64_t blocks = p.blocks();
    for (int64_t block = 0; block < blocks; ++block) weights.emplace_back(p, g, block);
    dh.assign(blocks * states, Lanes{});
    drate.assign(blocks * states, Lanes{});
    dweight.assign(blocks * p.rank, Lanes{});
    dbias.assign(blocks, Lanes{});
    dskip.assign(blocks, Lanes{});
    kept.resize(p.interval * states);
    decay.resize(p.interval * states);
    steps.resize(p.interval);
    ddt.resize(p.interval * p.rank);
  }

  void run() {
    const int64_t blocks = p.blocks(), row = (clip * p.directions + g) * p.channels;
    if (grad.dlast)
      for (int64_t block = 0; block < blocks; ++block)
        load_state(grad.dlast + (row + block * LANES) * states, &dh[block * states], p.width(block), states);
    for (int64_t chunk = p.chunks() - 1; chunk >= 0; --chunk)
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t count = std::min(p.interval, p.tokens - chunk * p.interval);
        find_steps(chunk, block, count);
        recompute(chunk, block, count);
        go_back(block, count);
      }
    for (int64_t block = 0; block < blocks; ++block) {
      const int count = p.width(block);
      const int64_t at = row + block * LANES;
      if (grad.dinitial) store_state(grad.dinitial + at * states, &dh[block * states], count, states);
      store_state(grad.da + at * states, &drate[block * states], count, states);
      store_state(grad.dweight + at * p.rank, &dweight[block * p.rank], count, p.rank);
      store_part(grad.dbias + at, dbias[block], count);
      store_part(grad.dskip + at, dskip[block], count);
    }
  }

  void find_steps(int64_t chunk, int64_t block, int64_t count) {
    const Block &w = weights[block];
    for (int64_t i = 0; i < count; ++i) {
      const int64_t token = clip * p.tokens + p.order[g * p.tokens + chunk * p.interval + i];
      const Lanes z = w.raw_step(p.dt.of(token, g), p.rank);
      const Lanes x = load_part(p.x + token * p.channels + block * LANES, p.width(block));
      Lanes slope;
      const Lanes delta = softplus(z, slope);
      steps[i] = {token, delta, x, slope};
    }
  }

  void recompute(int64_t chunk, int64_t block, int64_t count) {
    Lanes h[MOST], rate[MOST];
    const float *from =
        checkpoints + (((clip * p.directions + g) * p.chunks() + chunk) * p.blocks() + block) * states * LANES;
    std::copy_n(weights[block].rate.data(), states, rate);
    for (int64_t n = 0; n < states; ++n) h[n] = load(from + n * LANES);
    for (int64_t i = 0; i < count; ++i) {
      const Step &step = steps[i];
      const float *b = p.b.of(step.token, g);
      const Lanes drive = step.delta * step.x;
      Lanes *keep = &kept[i * states], *a = &decay[i * states];
#pragma GCC unroll 16
      for (int64_t n = 0; n < (FIXED ? FIXED : states); ++n) {
        a[n] = exp2(step.delta * rate[n]);
        keep[n] = a[n] * h[n];
        h[n] = keep[n] + drive * all(b[n]);
      }
    }
  }

  void go_back(int64_t block, int64_t tokens) {
    const Block &w = weights[block];
    const int count = p.width(block);
    const bool first = block == 0, last = block + 1 == p.blocks();
    Lanes dh_now[MOST];
    std::copy_n(&dh[block * states], states, dh_now);
    for (int64_t i = tokens - 1; i >= 0; --i) {
      const Step &step = steps[i];
      const Lanes dy = load_part(grad.dy + step.token * p.channels + block * LANES, count);
      Lanes ddrive{}, ddelta{};
#pragma GCC unroll 4
      for (int64_t n = 0; n < (FIXED ? FIXED : states); n += LANES)
        states_back(block, i, n, dy, dh_now, ddrive, ddelta);
      // rate carries log2(e) for exp2; the derivative of exp(delta A) by delta is A exp(delta A).
      const Lanes dz = (ddelta * all(1.0f / LOG2_E) + ddrive * step.x) * step.slope;
      dskip[block] += dy * step.x;
      dbias[block] += dz;
      const float *dt = p.dt.of(step.token, g);
      for (int64_t r = 0; r < p.rank; ++r) {
        Lanes &sum_of_blocks = ddt[i * p.rank + r];
        dweight[block * p.rank + r] += dz * all(dt[r]);
        sum_of_blocks = first ? dz * w.weight[r] : sum_of_blocks + dz * w.weight[r];
        if (last) grad.ddt[(step.token * p.directions + g) * p.rank + r] = sum(sum_of_blocks);
      }
      write_dx(step.token * p.channels + block * LANES, ddrive * step.delta + dy * w.skip, count);
    }
    std::copy_n(dh_now, states, &dh[block * states]);
  }

  // Up to LANES states of a token, from number n on.
  inline __attribute__((always_inline)) void states_back(int64_t block, int64_t i, int64_t n, Lanes dy, Lanes *dh_now,
                                                         Lanes &ddrive, Lanes &ddelta) {
    const Step &step = steps[i];
    const float *b = p.b.of(step.token, g), *c = p.c.of(step.token, g);
    const Lanes *keep = &kept[i * states], *a = &decay[i * states], *rate = weights[block].rate.data();
    Lanes *of_rate = &drate[block * states], db[LANES / 4], dc[LANES / 4], drives[4] = {}, deltas[4] = {};
    const Lanes drive = step.delta * step.x;
#pragma GCC unroll 4
    for (int q = 0; q < LANES / 4; ++q) {
      Lanes of_b[4] = {}, of_c[4] = {};
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k, ++n) {
        if (!FIXED && n >= states) break;
        const Lanes bn = all(b[n]), dhn = dh_now[n] + dy * all(c[n]);
        of_c[k] = dy * (keep[n] + drive * bn);
        of_b[k] = dhn * drive;
        drives[k] += dhn * bn;
        const Lanes through = dhn * keep[n];
        deltas[k] += through * rate[n];
        of_rate[n] += through * step.delta;
        dh_now[n] = dhn * a[n];
      }
      db[q] = sums_of_four(of_b);
      dc[q] = sums_of_four(of_c);
    }
    ddrive += (drives[0] + drives[1]) + (drives[2] + drives[3]);
    ddelta += (deltas[0] + deltas[1]) + (deltas[2] + deltas[3]);
    const int64_t begin = (n - 1) / LANES * LANES, at = (step.token * p.directions + g) * states + begin;
    add_sums(sums_of_fours(db), states - begin, grad.db + at, block == 0);
    add_sums(sums_of_fours(dc), states - begin, grad.dc + at, block == 0);
  }

  // Directions add up in their order, so that the sum is the same however they are divided among threads.
  void write_dx(int64_t place, Lanes values, int count) const {
    if (grad.apart)
      store_part(grad.dx + g * p.clips * p.tokens * p.channels + place, values, count);
    else
      store_part(grad.dx + place, g ? load_part(grad.dx + place, count) + values : values, count);
  }
};

}  // namespace scan
