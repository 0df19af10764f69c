// The scan's way back. Letters as in problem.h.
#pragma once

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

// One direction of one clip after the other, in each a chunk of tokens at a time from the last to the first, and in it
// one block of channels after the other: what a block needs of all tokens of a chunk stays in the nearest caches.
template <int FIXED>
struct Backward {
  static constexpr int MOST = FIXED ? FIXED : MOST_STATES;

  const Problem &p;
  const Gradients &grad;
  const float *checkpoints;
  int64_t clip = 0, g = 0, states;
  int64_t ranks, fours;  // rank, and states by fours, up to whole vectors
  std::vector<Block> weights;
  std::vector<Lanes> dh, dweight, dbias, dskip, drate;  // [blocks, ...]
  std::vector<Lanes> kept, decay;                       // [interval, N]: exp(delta A), alone and times the state before
  std::vector<Lanes> delta, slope;                      // [interval]: time step, and the derivative of softplus
  std::vector<Lanes> ddrive, ddelta;                    // [interval]
  std::vector<Lanes> ddt, db, dc;                       // [interval, ranks or fours]: sums over the blocks so far
  std::vector<const float *> b_rows, c_rows;            // [interval]: where the tokens' B and C are
  Tile x, dy, dx;

  Backward(const Problem &problem, const Gradients &gradients, const float *from)
      : p(problem), grad(gradients), checkpoints(from), states(FIXED ? FIXED : problem.states),
        ranks((problem.rank + LANES - 1) / LANES * LANES), fours((states + LANES - 1) / LANES * (LANES / 4)),
        x(0, p.blocks(), p.interval), dy(x), dx(x) {
    kept.resize(p.interval * states);
    decay.resize(p.interval * states);
    for (auto *of_tokens : {&delta, &slope, &ddrive, &ddelta})
      of_tokens->resize((p.interval + STEPS - 1) / STEPS * STEPS);
    ddt.resize(p.interval * ranks);
    db.resize(p.interval * fours);
    dc.resize(p.interval * fours);
    b_rows.resize(p.interval);
    c_rows.resize(p.interval);
  }

  void run(int64_t clip_, int64_t g_) {
    clip = clip_;
    g = g_;
    const int64_t blocks = p.blocks(), row = (clip * p.directions + g) * p.channels;
    weights.clear();
    for (int64_t block = 0; block < blocks; ++block) weights.emplace_back(p, g, block);
    dh.assign(blocks * states, Lanes{});
    drate.assign(blocks * states, Lanes{});
    dweight.assign(blocks * p.rank, Lanes{});
    dbias.assign(blocks, Lanes{});
    dskip.assign(blocks, Lanes{});
    if (grad.dlast)
      for (int64_t block = 0; block < blocks; ++block)
        load_state(grad.dlast + (row + block * LANES) * states, &dh[block * states], p.width(block), states);
    for (int64_t chunk = p.chunks() - 1; chunk >= 0; --chunk) go_through(chunk);
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

  void go_through(int64_t chunk) {
    const int64_t count = std::min(p.interval, p.tokens - chunk * p.interval);
    const int32_t *order = p.order + g * p.tokens + chunk * p.interval;
    x.gather(p, p.x, clip, order, count);
    dy.gather(p, grad.dy, clip, order, count);
    for (int64_t i = 0; i < count; ++i) {
      b_rows[i] = p.b.of(clip * p.tokens + order[i], g);
      c_rows[i] = p.c.of(clip * p.tokens + order[i], g);
    }
    for (auto *sums : {&ddt, &db, &dc}) std::fill(sums->begin(), sums->end(), Lanes{});
    for (int64_t block = 0; block < p.blocks(); ++block) {
      weights[block].template find_steps<true>(p, clip, g, order, count, delta.data(), slope.data());
      recompute(chunk, block, count);
      std::fill_n(ddrive.data(), count, Lanes{});
      std::fill_n(ddelta.data(), count, Lanes{});
      int64_t n = 0;
      for (; n + 4 <= states; n += 4) states_back<4>(block, n, count);
      if (n < states) rest_back(states - n, block, n, count);
      steps_back(order, block, count);
    }
    for (int64_t i = 0; i < count; ++i) write_sums(clip * p.tokens + order[i], i);
    // Directions add up in their order, so that the sum is the same however they are divided among threads.
    float *to = grad.dx + (grad.apart ? g * p.clips * p.tokens * p.channels : 0);
    g && !grad.apart ? dx.scatter<true>(p, to, clip, order, count) : dx.scatter<false>(p, to, clip, order, count);
  }

  // Again the states of a chunk, from the one that was kept.
  void recompute(int64_t chunk, int64_t block, int64_t count) {
    Lanes h[MOST];
    const float *from =
        checkpoints + (((clip * p.directions + g) * p.chunks() + chunk) * p.blocks() + block) * states * LANES;
    for (int64_t n = 0; n < states; ++n) h[n] = load(from + n * LANES);
    for (int64_t i = 0; i < count; ++i)
      weights[block].within(delta[i]) ? advance_all<true>(h, block, i) : advance_all<false>(h, block, i);
  }

  template <bool WITHIN>
  inline __attribute__((always_inline)) void advance_all(Lanes *h, int64_t block, int64_t i) {
    const float *b = b_rows[i];
    int64_t n = 0;
#pragma GCC unroll 4
    for (; n + 4 <= (FIXED ? FIXED : states); n += 4) advance<4, WITHIN>(h, block, i, n, b);
    for (; n < (FIXED ? FIXED : states); ++n) advance<1, WITHIN>(h, block, i, n, b);
  }

  template <int COUNT, bool WITHIN>
  inline __attribute__((always_inline)) void advance(Lanes *h, int64_t block, int64_t i, int64_t n, const float *b) {
    const Lanes step = delta[i], drive = step * x.of(block)[i], *rate = weights[block].rate.data() + n;
    const auto logs = each<COUNT>([&](int k) { return step * rate[k]; });
    const auto factors = WITHIN ? exp2_within(logs) : exp2(logs);
    Lanes *keep = &kept[i * states + n], *a = &decay[i * states + n];
#pragma GCC unroll 4
    for (int k = 0; k < COUNT; ++k) {
      a[k] = factors[k];
      keep[k] = factors[k] * h[n + k];
      h[n + k] = keep[k] + drive * all(b[n + k]);
    }
  }

  void rest_back(int64_t count, int64_t block, int64_t n, int64_t tokens) {
    if (count == 1) states_back<1>(block, n, tokens);
    if (count == 2) states_back<2>(block, n, tokens);
    if (count == 3) states_back<3>(block, n, tokens);
  }

  // Up to four states, from number n on, of all tokens of the chunk: what they carry stays in registers.
  template <int COUNT>
  void states_back(int64_t block, int64_t n, int64_t tokens) {
    const Lanes *rate = weights[block].rate.data() + n, *xs = x.of(block), *dys = dy.of(block);
    Lanes dh_now[COUNT], of_rate[COUNT];
    // One by one: an array that is copied as a whole stays in memory.
    for (int k = 0; k < COUNT; ++k) dh_now[k] = dh[block * states + n + k];
    for (int k = 0; k < COUNT; ++k) of_rate[k] = drate[block * states + n + k];
    for (int64_t i = tokens - 1; i >= 0; --i) {
      const float *b = b_rows[i] + n, *c = c_rows[i] + n;
      const Lanes *keep = &kept[i * states + n], *a = &decay[i * states + n];
      const Lanes step = delta[i], drive = step * xs[i], dyi = dys[i];
      Lanes of_b[4] = {}, of_c[4] = {}, drives[2] = {}, deltas[2] = {};
#pragma GCC unroll 4
      for (int k = 0; k < COUNT; ++k) {
        const Lanes bk = all(b[k]), dhk = dh_now[k] + dyi * all(c[k]);
        of_c[k] = dyi * (keep[k] + drive * bk);
        of_b[k] = dhk * drive;
        drives[k % 2] += dhk * bk;
        const Lanes through = dhk * keep[k];
        deltas[k % 2] += through * rate[k];
        of_rate[k] += through * step;
        dh_now[k] = dhk * a[k];
      }
      ddrive[i] += drives[0] + drives[1];
      ddelta[i] += deltas[0] + deltas[1];
      db[i * fours + n / 4] += sums_of_four(of_b);
      dc[i * fours + n / 4] += sums_of_four(of_c);
    }
    for (int k = 0; k < COUNT; ++k) dh[block * states + n + k] = dh_now[k];
    for (int k = 0; k < COUNT; ++k) drate[block * states + n + k] = of_rate[k];
  }

  // From the gradients of time steps and inputs to those of what they were made from.
  void steps_back(const int32_t *order, int64_t block, int64_t tokens) {
    const Block &w = weights[block];
    const Lanes *xs = x.of(block), *dys = dy.of(block);
    Lanes *dxs = dx.of(block), *of_weight = &dweight[block * p.rank];
    for (int64_t i = tokens - 1; i >= 0; --i) {
      // rate carries log2(e) for exp2; the derivative of exp(delta A) by delta is A exp(delta A).
      const Lanes dz = (ddelta[i] * all(1.0f / LOG2_E) + ddrive[i] * xs[i]) * slope[i];
      dskip[block] += dys[i] * xs[i];
      dbias[block] += dz;
      const float *dt = p.dt.of(clip * p.tokens + order[i], g);
      for (int64_t r = 0; r < p.rank; ++r) {
        of_weight[r] += dz * all(dt[r]);
        ddt[i * ranks + r] += dz * w.weight[r];
      }
      dxs[i] = ddrive[i] * delta[i] + dys[i] * w.skip;
    }
  }

  // The sums over the channels of a token, when all blocks have added theirs.
  void write_sums(int64_t token, int64_t i) const {
    const int64_t row = token * p.directions + g;
    for (int64_t r = 0; r < p.rank; r += LANES) {
      Lanes of_four[LANES / 4];
      for (int k = 0; k < LANES / 4; ++k) of_four[k] = sums_of_four(&ddt[i * ranks + r + 4 * k]);
      const int count = static_cast<int>(std::min<int64_t>(LANES, p.rank - r));
      store_part(grad.ddt + row * p.rank + r, sums_of_fours(of_four), count);
    }
    for (int64_t n = 0; n < states; n += LANES) {
      const int count = static_cast<int>(std::min<int64_t>(LANES, states - n));
      store_part(grad.db + row * states + n, sums_of_fours(&db[i * fours + n / 4]), count);
      store_part(grad.dc + row * states + n, sums_of_fours(&dc[i * fours + n / 4]), count);
    }
  }
};

}  // namespace scan
