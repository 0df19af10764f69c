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
  int64_t ranks, padded;  // rank and states up to whole vectors
  std::vector<Block> weights;
  std::vector<Lanes> dh, dweight, dbias, dskip, drate;  // [blocks, ...]
  std::vector<Lanes> kept, decay;                       // [interval, N]: exp(delta A), alone and times the state before
  std::vector<Lanes> delta, slope;                      // [interval]: time step, and the derivative of softplus
  std::vector<Lanes> ddrive, ddelta;                    // [interval]
  std::vector<Lanes> ddt, db, dc;                       // [interval, ranks or padded]: sums over the blocks so far
  std::vector<const float *> dt_rows, b_rows, c_rows;   // [interval]: where the tokens' dt, B and C are
  Tile x, dy, dx;

  Backward(const Problem &problem, const Gradients &gradients, const float *from)
      : p(problem), grad(gradients), checkpoints(from), states(FIXED ? FIXED : problem.states),
        ranks((problem.rank + LANES - 1) / LANES * LANES), padded((states + LANES - 1) / LANES * LANES),
        x(0, p.blocks(), p.interval), dy(x), dx(x) {
    kept.resize(p.interval * states);
    decay.resize(p.interval * states);
    for (auto *of_tokens : {&delta, &slope, &ddrive, &ddelta})
      of_tokens->resize((p.interval + STEPS - 1) / STEPS * STEPS);
    ddt.resize(p.interval * ranks);
    db.resize(p.interval * padded);
    dc.resize(p.interval * padded);
    dt_rows.resize(p.interval);
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
      dt_rows[i] = p.dt.of(clip * p.tokens + order[i], g);
      b_rows[i] = p.b.of(clip * p.tokens + order[i], g);
      c_rows[i] = p.c.of(clip * p.tokens + order[i], g);
    }
    for (auto *sums : {&ddt, &db, &dc}) std::fill(sums->begin(), sums->end(), Lanes{});
    for (int64_t block = 0; block < p.blocks(); ++block) {
      weights[block].template find_steps<true>(p, clip, g, order, count, delta.data(), slope.data());
      recompute(chunk, block, count);
      tokens_back(block, count);
      steps_back(block, count);
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

  // One block of channels of a chunk, from the last token to the first.
  void tokens_back(int64_t block, int64_t tokens) {
    const int64_t states = FIXED ? FIXED : this->states;
    const Lanes *rate = weights[block].rate.data(), *xs = x.of(block), *dys = dy.of(block);
    Lanes *dh_now = &dh[block * states], *of_rate = &drate[block * states];
    for (int64_t i = tokens - 1; i >= 0; --i) {
      const float *b = b_rows[i], *c = c_rows[i];
      const Lanes *keep = &kept[i * states], *a = &decay[i * states];
      const Lanes step = delta[i], drive = step * xs[i], dyi = dys[i];
      Lanes *of_b = &db[i * padded], *of_c = &dc[i * padded], drives[4] = {}, deltas[4] = {};
      const auto back = [&](int64_t n, int part) LGRNET_MEMBER {
        const Lanes bn = all(b[n]), dhn = dh_now[n] + dyi * all(c[n]);
        of_c[n] += dyi * (keep[n] + drive * bn);
        of_b[n] += dhn * drive;
        drives[part] += dhn * bn;
        const Lanes through = dhn * keep[n];
        deltas[part] += through * rate[n];
        of_rate[n] += through * step;
        dh_now[n] = dhn * a[n];
      };
      int64_t n = 0;
#pragma GCC unroll 4
      for (; n + 4 <= states; n += 4)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) back(n + k, k);
      for (; n < states; ++n) back(n, n % 4);
      ddrive[i] = (drives[0] + drives[1]) + (drives[2] + drives[3]);
      ddelta[i] = (deltas[0] + deltas[1]) + (deltas[2] + deltas[3]);
    }
  }

  // From the gradients of time steps and inputs to those of what they were made from.
  void steps_back(int64_t block, int64_t tokens) {
    const Block &w = weights[block];
    const Lanes *xs = x.of(block), *dys = dy.of(block);
    Lanes *dxs = dx.of(block), of_bias = dbias[block], of_skip = dskip[block];
    for (int64_t i = tokens - 1; i >= 0; --i) {
      // rate carries log2(e) for exp2; the derivative of exp(delta A) by delta is A exp(delta A).
      const Lanes dz = (ddelta[i] * all(1.0f / LOG2_E) + ddrive[i] * xs[i]) * slope[i];
      of_bias += dz;
      of_skip += dys[i] * xs[i];
      dxs[i] = ddrive[i] * delta[i] + dys[i] * w.skip;
      ddelta[i] = dz;
    }
    dbias[block] = of_bias;
    dskip[block] = of_skip;
    for (int64_t r = 0; r < p.rank; ++r) {
      const Lanes weight = w.weight[r];
      Lanes of_weight = dweight[block * p.rank + r];
      for (int64_t i = tokens - 1; i >= 0; --i) {
        of_weight += ddelta[i] * all(dt_rows[i][r]);
        ddt[i * ranks + r] += ddelta[i] * weight;
      }
      dweight[block * p.rank + r] = of_weight;
    }
  }

  // The sums over the channels of a token, when all blocks have added theirs.
  void write_sums(int64_t token, int64_t i) const {
    const int64_t row = token * p.directions + g;
    write_sum(&ddt[i * ranks], p.rank, grad.ddt + row * p.rank);
    write_sum(&db[i * padded], states, grad.db + row * states);
    write_sum(&dc[i * padded], states, grad.dc + row * states);
  }

  static void write_sum(const Lanes *sums, int64_t count, float *to) {
    for (int64_t n = 0; n < count; n += LANES) {
      Lanes fours[LANES / 4];
      for (int k = 0; k < LANES / 4; ++k) fours[k] = sums_of_four(sums + n + 4 * k);
      store_part(to + n, sums_of_fours(fours), static_cast<int>(std::min<int64_t>(LANES, count - n)));
    }
  }
};

}  // namespace scan
