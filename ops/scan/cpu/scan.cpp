// Selective scan over a grid of tokens in any number of orders, forward and backward, in float32.
//
// One pass over the tokens of an order does everything: it gathers the token's row by the order, projects the time
// step, applies softplus, updates the states of LANES channels at a time, weighs them, adds the direct path, and adds
// the result to the token's row. Nothing of size [tokens, channels, states] exists; for the backward pass the state is
// kept every `interval` tokens, and what lies between is computed again.
//
// Letters as in ops/scan/__init__.py: B clips, L tokens, D channels, G directions, R rank of dt, N states.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/threads.h"

namespace {

constexpr int MOST_STATES = 256;

struct Problem {
  const float *x, *dt, *b, *c, *dt_weight, *dt_bias, *a, *skip;
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
void load_state(const float *from, Lanes *state, int count, int64_t states) {
  for (int64_t n = 0; n < states; ++n) {
    state[n] = Lanes{};
    for (int lane = 0; lane < count; ++lane) state[n][lane] = from[lane * states + n];
  }
}

void store_state(float *to, const Lanes *state, int count, int64_t states) {
  for (int64_t n = 0; n < states; ++n)
    for (int lane = 0; lane < count; ++lane) to[lane * states + n] = state[n][lane];
}

// One token: states h <- exp(delta A) h + delta x B, returns <C, h>. FIXED > 0 is the number of states known to the
// compiler, which then keeps them in registers.
template <int FIXED>
LGRNET_INLINE Lanes advance(Lanes *h, const Lanes *rate, Lanes delta, Lanes drive, const float *b, const float *c,
                            int64_t states) {
  const int64_t count = FIXED ? FIXED : states;
  Lanes parts[4] = {};
#pragma GCC unroll 16
  for (int64_t n = 0; n < count; ++n) {
    h[n] = exp2(delta * rate[n]) * h[n] + drive * all(b[n]);
    parts[n % 4] += h[n] * all(c[n]);
  }
  return (parts[0] + parts[1]) + (parts[2] + parts[3]);
}

// Some blocks of channels of one clip, a tile of tokens at a time: what the tile's tokens share (dt, B, C) is then read
// from the nearest cache for all blocks but the first.
template <int FIXED>
struct Forward {
  static constexpr int64_t TILE = 64;
  const Problem &p;
  int64_t clip, first, end;  // blocks
  float *y, *checkpoints;

  void run(const float *initial, float *last) {
    const int64_t states = FIXED ? FIXED : p.states;
    for (int64_t g = 0; g < p.directions; ++g) {
      const int64_t row = (clip * p.directions + g) * p.channels * states;
      std::vector<Block> weights;
      std::vector<Lanes> h((end - first) * states, Lanes{});
      for (int64_t block = first; block < end; ++block) {
        weights.emplace_back(p, g, block);
        const float *from = initial + row + block * LANES * states;
        if (initial) load_state(from, &h[(block - first) * states], p.width(block), states);
      }
      for (int64_t start = 0; start < p.tokens; start += TILE)
        for (int64_t block = first; block < end; ++block)
          tile(g, block, weights[block - first], &h[(block - first) * states], start);
      for (int64_t block = first; last && block < end; ++block)
        store_state(last + row + block * LANES * states, &h[(block - first) * states], p.width(block), states);
    }
  }

  void tile(int64_t g, int64_t block, const Block &weights, Lanes *state, int64_t start) {
    const int64_t states = FIXED ? FIXED : p.states, stop = std::min(start + TILE, p.tokens);
    const int count = p.width(block);
    const float *x = p.x + clip * p.tokens * p.channels + block * LANES;
    float *out = y + clip * p.tokens * p.channels + block * LANES;
    Lanes h[FIXED ? FIXED : MOST_STATES], rate[FIXED ? FIXED : MOST_STATES];
    std::copy_n(state, states, h);
    std::copy_n(weights.rate.data(), states, rate);
    // The time steps of all tokens first: each takes long, but none waits for another.
    Lanes delta[TILE], xs[TILE];
    for (int64_t i = start; i < stop; ++i) {
      const int64_t token = p.order[g * p.tokens + i], at = (clip * p.tokens + token) * p.directions + g;
      delta[i - start] = softplus(weights.raw_step(p.dt + at * p.rank, p.rank));
      xs[i - start] = load_part(x + token * p.channels, count);
    }
    for (int64_t i = start; i < stop; ++i) {
      if (checkpoints && i % p.interval == 0) {
        const int64_t row = ((clip * p.directions + g) * p.chunks() + i / p.interval) * p.blocks() + block;
        for (int64_t n = 0; n < states; ++n) store(checkpoints + (row * states + n) * LANES, h[n]);
      }
      const int64_t token = p.order[g * p.tokens + i], at = (clip * p.tokens + token) * p.directions + g;
      const Lanes xi = xs[i - start], step = delta[i - start];
      const Lanes over_states = advance<FIXED>(h, rate, step, step * xi, p.b + at * states, p.c + at * states, states);
      float *place = out + token * p.channels;
      store_part(place, load_part(place, count) + over_states + weights.skip * xi, count);
    }
    std::copy_n(h, states, state);
  }
};

struct Gradients {
  const float *dy, *dlast;  // of y [B, L, D] and of the last state [B, G, D, N] or null
  float *dx;                // [G, B, L, D]: each direction adds to its own
  float *ddt, *db, *dc;     // as dt, B, C
  float *dweight, *dbias, *da, *dskip;  // [B, G, ...]: each clip adds to its own
  float *dinitial;                      // [B, G, D, N] or null
};

// What a chunk needs of every token and block for its way back.
struct Saved {
  Lanes delta, x, slope;  // slope is the derivative of softplus
};

template <int FIXED>
struct Backward {
  const Problem &p;
  const Gradients &grad;
  const float *checkpoints;
  int64_t clip, g, states;
  std::vector<Block> weights;
  std::vector<Lanes> dh, dweight, dbias, dskip, drate;  // [blocks, ...]
  std::vector<Lanes> before, decay;                     // [interval, blocks, N]
  std::vector<Saved> saved;                             // [interval, blocks]

  Backward(const Problem &problem, const Gradients &gradients, const float *kept, int64_t clip_, int64_t g_)
      : p(problem), grad(gradients), checkpoints(kept), clip(clip_), g(g_), states(FIXED ? FIXED : problem.states) {
    const int64_t blocks = p.blocks();
    for (int64_t block = 0; block < blocks; ++block) weights.emplace_back(p, g, block);
    dh.assign(blocks * states, Lanes{});
    drate.assign(blocks * states, Lanes{});
    dweight.assign(blocks * p.rank, Lanes{});
    dbias.assign(blocks, Lanes{});
    dskip.assign(blocks, Lanes{});
    before.resize(p.interval * blocks * states);
    decay.resize(p.interval * blocks * states);
    saved.resize(p.interval * blocks);
  }

  int64_t token(int64_t i) const { return p.order[g * p.tokens + i]; }
  int64_t place(int64_t i) const { return (clip * p.tokens + token(i)) * p.directions + g; }

  void run() {
    const int64_t blocks = p.blocks(), row = (clip * p.directions + g) * p.channels;
    if (grad.dlast)
      for (int64_t block = 0; block < blocks; ++block)
        load_state(grad.dlast + (row + block * LANES) * states, &dh[block * states], p.width(block), states);
    for (int64_t chunk = p.chunks() - 1; chunk >= 0; --chunk) {
      const int64_t first = chunk * p.interval, end = std::min(first + p.interval, p.tokens);
      recompute(chunk, first, end);
      for (int64_t i = end - 1; i >= first; --i) step_back(i, i - first);
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

  void recompute(int64_t chunk, int64_t first, int64_t end) {
    const int64_t blocks = p.blocks();
    for (int64_t block = 0; block < blocks; ++block) {
      const Block &w = weights[block];
      const int count = p.width(block);
      Lanes h[FIXED ? FIXED : MOST_STATES];
      const float *kept =
          checkpoints + (((clip * p.directions + g) * p.chunks() + chunk) * blocks + block) * states * LANES;
      for (int64_t n = 0; n < states; ++n) h[n] = load(kept + n * LANES);
      for (int64_t i = first; i < end; ++i) {
        const int64_t at = place(i), local = (i - first) * blocks + block;
        const Lanes z = w.raw_step(p.dt + at * p.rank, p.rank);
        const Lanes delta = softplus(z);
        const Lanes x = load_part(p.x + (clip * p.tokens + token(i)) * p.channels + block * LANES, count);
        saved[local] = {delta, x, sigmoid(z)};
        const float *b = p.b + at * states;
        const Lanes drive = delta * x;
        Lanes *h_before = &before[local * states], *a = &decay[local * states];
        for (int64_t n = 0; n < (FIXED ? FIXED : states); ++n) {
          h_before[n] = h[n];
          a[n] = exp2(delta * w.rate[n]);
          h[n] = a[n] * h[n] + drive * all(b[n]);
        }
      }
    }
  }

  void step_back(int64_t i, int64_t local) {
    const int64_t blocks = p.blocks(), at = place(i), row = (clip * p.tokens + token(i)) * p.channels;
    const float *b = p.b + at * states, *c = p.c + at * states, *dt = p.dt + at * p.rank;
    Lanes db[FIXED ? FIXED : MOST_STATES], dc[FIXED ? FIXED : MOST_STATES], ddt[MOST_STATES];
    std::fill_n(db, states, Lanes{});
    std::fill_n(dc, states, Lanes{});
    std::fill_n(ddt, p.rank, Lanes{});
    for (int64_t block = 0; block < blocks; ++block) {
      const Block &w = weights[block];
      const int count = p.width(block);
      const Saved &s = saved[local * blocks + block];
      const Lanes *h_before = &before[(local * blocks + block) * states];
      const Lanes *a = &decay[(local * blocks + block) * states];
      Lanes *dh_block = &dh[block * states], *drate_block = &drate[block * states];
      const Lanes dy = load_part(grad.dy + row + block * LANES, count);
      const Lanes drive = s.delta * s.x;
      Lanes ddrive{}, ddelta{};
      for (int64_t n = 0; n < (FIXED ? FIXED : states); ++n) {
        const Lanes kept = a[n] * h_before[n];
        const Lanes dhn = dh_block[n] + dy * all(c[n]);
        dc[n] += dy * (kept + drive * all(b[n]));
        db[n] += dhn * drive;
        ddrive += dhn * all(b[n]);
        const Lanes through = dhn * kept;
        ddelta += through * w.rate[n];
        drate_block[n] += through * s.delta;
        dh_block[n] = dhn * a[n];
      }
      // rate carries log2(e) for exp2; the derivative of exp(delta A) by delta is A exp(delta A).
      const Lanes dz = (ddelta * all(1.0f / LOG2_E) + ddrive * s.x) * s.slope;
      dskip[block] += dy * s.x;
      dbias[block] += dz;
      for (int64_t r = 0; r < p.rank; ++r) {
        dweight[block * p.rank + r] += dz * all(dt[r]);
        ddt[r] += dz * w.weight[r];
      }
      float *dx = grad.dx + g * p.clips * p.tokens * p.channels + row + block * LANES;
      store_part(dx, ddrive * s.delta + dy * w.skip, count);
    }
    for (int64_t n = 0; n < states; ++n) {
      grad.db[at * states + n] = sum(db[n]);
      grad.dc[at * states + n] = sum(dc[n]);
    }
    for (int64_t r = 0; r < p.rank; ++r) grad.ddt[at * p.rank + r] = sum(ddt[r]);
  }
};

}  // namespace

extern "C" {

// y [B, L, D] is added to. initial and last [B, G, D, N] may be null, and so may checkpoints, which else has
// [B, G, chunks, blocks, N, LANES] floats (see lgrnet_lanes). Returns 0, or 1 for more states or rank than it can do.
int lgrnet_scan_forward(const float *x, const float *dt, const float *b, const float *c, const float *dt_weight,
                        const float *dt_bias, const float *a, const float *skip, const int32_t *order,
                        const float *initial, float *y, float *last, float *checkpoints, int64_t clips, int64_t tokens,
                        int64_t channels, int64_t directions, int64_t rank, int64_t states, int64_t interval,
                        int threads) {
  if (states > MOST_STATES || rank > MOST_STATES) return 1;
  const Problem p{x,      dt,       b,          c,    dt_weight, dt_bias, a,       skip, order, clips,
                  tokens, channels, directions, rank, states,    interval};
  const int64_t groups = std::min<int64_t>(p.blocks(), std::max(threads, 1));
  parallel_for(clips * groups, threads, [&](int64_t task) {
    const int64_t clip = task / groups, group = task % groups;
    const int64_t first = group * p.blocks() / groups, end = (group + 1) * p.blocks() / groups;
    if (states == 16)
      Forward<16>{p, clip, first, end, y, checkpoints}.run(initial, last);
    else
      Forward<0>{p, clip, first, end, y, checkpoints}.run(initial, last);
  });
  return 0;
}

// Gradients: dx [G, B, L, D], ddt, db, dc as their inputs; dt_weight, dt_bias, A and skip [B, G, ...] for each clip;
// dinitial [B, G, D, N] or null. dlast may be null. All are written, none is added to.
int lgrnet_scan_backward(const float *x, const float *dt, const float *b, const float *c, const float *dt_weight,
                         const float *dt_bias, const float *a, const float *skip, const int32_t *order,
                         const float *checkpoints, const float *dy, const float *dlast, float *dx, float *ddt,
                         float *db, float *dc, float *dweight, float *dbias, float *da, float *dskip, float *dinitial,
                         int64_t clips, int64_t tokens, int64_t channels, int64_t directions, int64_t rank,
                         int64_t states, int64_t interval, int threads) {
  if (states > MOST_STATES || rank > MOST_STATES) return 1;
  const Problem p{x,      dt,       b,          c,    dt_weight, dt_bias, a,       skip, order, clips,
                  tokens, channels, directions, rank, states,    interval};
  const Gradients gradients{dy, dlast, dx, ddt, db, dc, dweight, dbias, da, dskip, dinitial};
  parallel_for(clips * directions, threads, [&](int64_t task) {
    const int64_t clip = task / directions, g = task % directions;
    if (states == 16)
      Backward<16>(p, gradients, checkpoints, clip, g).run();
    else
      Backward<0>(p, gradients, checkpoints, clip, g).run();
  });
  return 0;
}
}
