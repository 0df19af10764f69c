// Selective scan over a grid of tokens in any number of orders, forward and backward, in float32.
//
// One pass over the tokens of an order does everything: it gathers the token's row by the order, projects the time
// step, applies softplus, updates the states of LANES channels at a time, weighs them, adds the direct path, and adds
// the result to the token's row. Nothing of size [tokens, channels, states] exists; for the backward pass the state is
// kept every `interval` tokens, and what lies between is computed again.
//
// Letters as in ops/scan/__init__.py: B clips, L tokens, D channels, G directions, R rank of dt, N states.
#include "backward.h"

#include "../../cpu/threads.h"

namespace {

using namespace scan;

// Up to four states of one token: h <- exp(delta A) h + delta x B, and parts += C h. WITHIN: exp2_within can do it.
template <int COUNT, bool WITHIN>
LGRNET_INLINE void advance(Lanes *h, const Lanes *rate, Lanes delta, Lanes drive, const float *b, const float *c,
                           Lanes *parts) {
  const auto logs = each<COUNT>([&](int k) { return delta * rate[k]; });
  const auto decay = WITHIN ? exp2_within(logs) : exp2(logs);
#pragma GCC unroll 4
  for (int k = 0; k < COUNT; ++k) {
    h[k] = decay[k] * h[k] + drive * all(b[k]);
    parts[k] += h[k] * all(c[k]);
  }
}

// Some blocks of channels of one clip, a tile of tokens at a time: what the tile's tokens share (dt, B, C) is then read
// from the nearest cache for all blocks but the first.
template <int FIXED>
struct Forward {
  static constexpr int64_t TILE = 32;
  const Problem &p;
  int64_t clip, first, end;  // blocks
  float *y, *checkpoints;
  Tile x{first, end, TILE}, out{first, end, TILE};

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
      for (int64_t start = 0; start < p.tokens; start += TILE) {
        const int64_t count = std::min(TILE, p.tokens - start);
        const int32_t *order = p.order + g * p.tokens + start;
        x.gather(p, p.x, clip, order, count);
        for (int64_t block = first; block < end; ++block)
          tile(g, block, weights[block - first], &h[(block - first) * states], start, count);
        g ? out.scatter<true>(p, y, clip, order, count) : out.scatter<false>(p, y, clip, order, count);
      }
      for (int64_t block = first; last && block < end; ++block)
        store_state(last + row + block * LANES * states, &h[(block - first) * states], p.width(block), states);
    }
  }

  void tile(int64_t g, int64_t block, const Block &weights, Lanes *h, int64_t start, int64_t count) {
    const int64_t states = FIXED ? FIXED : p.states;
    const int32_t *order = p.order + g * p.tokens + start;
    const Lanes *xs = x.of(block);
    Lanes delta[TILE], *ys = out.of(block);
    // The time steps of all tokens first: each takes long, but none waits for another.
    weights.find_steps<false>(p, clip, g, order, count, delta, nullptr);
    for (int64_t i = 0; i < count; ++i) {
      if (checkpoints && (start + i) % p.interval == 0) {
        const int64_t row = ((clip * p.directions + g) * p.chunks() + (start + i) / p.interval) * p.blocks() + block;
        for (int64_t n = 0; n < states; ++n) store(checkpoints + (row * states + n) * LANES, h[n]);
      }
      const int64_t token = clip * p.tokens + order[i];
      const float *b = p.b.of(token, g), *c = p.c.of(token, g);
      const Lanes over_states = weights.within(delta[i]) ? advance_all<true>(h, weights, delta[i], xs[i], b, c)
                                                         : advance_all<false>(h, weights, delta[i], xs[i], b, c);
      ys[i] = over_states + weights.skip * xs[i];
    }
  }

  // One token; returns <C, h>.
  template <bool WITHIN>
  inline __attribute__((always_inline)) Lanes advance_all(Lanes *h, const Block &weights, Lanes delta, Lanes x,
                                                          const float *b, const float *c) const {
    const int64_t states = FIXED ? FIXED : p.states;
    const Lanes *rate = weights.rate.data(), drive = delta * x;
    Lanes parts[4] = {};
    int64_t n = 0;
#pragma GCC unroll 4
    for (; n + 4 <= states; n += 4) advance<4, WITHIN>(h + n, rate + n, delta, drive, b + n, c + n, parts);
    for (; n < states; ++n) advance<1, WITHIN>(h + n, rate + n, delta, drive, b + n, c + n, parts + n % 4);
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }
};

// Sums over the first axis, from the first to the last.
void add_up(const float *from, int64_t count, int64_t size, float *to) {
  std::fill_n(to, size, 0.0f);
  for (int64_t k = 0; k < count; ++k)
    for (int64_t i = 0; i < size; ++i) to[i] += from[k * size + i];
}

template <int FIXED>
void all_back(const Problem &p, const Gradients &gradients, const float *checkpoints, int threads) {
  const int64_t at_once = gradients.apart ? 1 : std::max<int64_t>(p.directions, 1);
  const int64_t tasks = p.clips * p.directions / at_once;
  parallel_for(tasks, threads, [&](int64_t task) {
    Backward<FIXED> back(p, gradients, checkpoints);
    for (int64_t i = task * at_once; i < (task + 1) * at_once; ++i) back.run(i / p.directions, i % p.directions);
  });
}

}  // namespace

extern "C" {

// Whether each of `rows` rows holds each of 0..tokens - 1 once. What is wrong there would be another's memory.
int lgrnet_scan_is_order(const int32_t *order, int64_t rows, int64_t tokens) try {
  for (int64_t row = 0; row < rows; ++row, order += tokens) {
    std::vector<bool> seen(tokens);
    for (int64_t i = 0; i < tokens; ++i) {
      if (order[i] < 0 || order[i] >= tokens || seen[order[i]]) return 0;
      seen[order[i]] = true;
    }
  }
  return 1;
} catch (const std::exception &) {
  return NO_MEMORY;
}

// `strides` are those of dt, b and c: from one token to the next, and from one direction to the next.
// initial and last [B, G, D, N] may be null, and so may checkpoints, which else has
// [B, G, chunks, blocks, N, LANES] floats (see lgrnet_lanes). Returns 0, or 1 for more states or rank than it can do.
int lgrnet_scan_forward(const float *x, const float *dt, const float *b, const float *c, const float *dt_weight,
                        const float *dt_bias, const float *a, const float *skip, const int32_t *order,
                        const int64_t *strides, const float *initial, float *y, float *last, float *checkpoints,
                        int64_t clips, int64_t tokens, int64_t channels, int64_t directions, int64_t rank,
                        int64_t states, int64_t interval, int threads) try {
  if (states > MOST_STATES || rank > MOST_STATES) return 1;
  const Rows of_dt{dt, strides[0], strides[1]}, of_b{b, strides[2], strides[3]}, of_c{c, strides[4], strides[5]};
  const Problem p{x,     of_dt, of_b,   of_c,     dt_weight,  dt_bias, a,      skip,
                  order, clips, tokens, channels, directions, rank,    states, interval};
  if (!directions) std::fill_n(y, clips * tokens * channels, 0.0f);  // nobody else writes it
  const int64_t groups = std::min<int64_t>(p.blocks(), std::max(threads, 1));
  parallel_for(clips * groups, threads, [&](int64_t task) {
    const int64_t clip = task / groups, group = task % groups;
    const int64_t first = group * p.blocks() / groups, end = (group + 1) * p.blocks() / groups;
    if (states == 16)
      Forward<16>{p, clip, first, end, y, checkpoints}.run(initial, last);
    else
      Forward<0>{p, clip, first, end, y, checkpoints}.run(initial, last);
  });
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}

// Gradients as their inputs; dinitial [B, G, D, N] and dlast may be null. All are written, none is added to.
int lgrnet_scan_backward(const float *x, const float *dt, const float *b, const float *c, const float *dt_weight,
                         const float *dt_bias, const float *a, const float *skip, const int32_t *order,
                         const int64_t *strides, const float *checkpoints, const float *dy, const float *dlast,
                         float *dx, float *ddt, float *db, float *dc, float *dweight, float *dbias, float *da,
                         float *dskip, float *dinitial, int64_t clips, int64_t tokens, int64_t channels,
                         int64_t directions, int64_t rank, int64_t states, int64_t interval, int threads) try {
  if (states > MOST_STATES || rank > MOST_STATES) return 1;
  const Rows of_dt{dt, strides[0], strides[1]}, of_b{b, strides[2], strides[3]}, of_c{c, strides[4], strides[5]};
  const Problem p{x,     of_dt, of_b,   of_c,     dt_weight,  dt_bias, a,      skip,
                  order, clips, tokens, channels, directions, rank,    states, interval};
  // Where there are more threads than clips the directions are divided, too, and need a place each for dx.
  const bool apart = clips < threads && directions > 1;
  const int64_t rows = directions * channels, size = clips * tokens * channels;
  std::vector<float> dxs(apart ? directions * size : 0), weights(clips * rows * (rank + states + 2));
  float *of_weight = weights.data(), *of_a = of_weight + clips * rows * rank, *of_bias = of_a + clips * rows * states;
  float *of_skip = of_bias + clips * rows;
  const Gradients gradients{dy, dlast,     apart ? dxs.data() : dx, apart, ddt,    db,
                            dc, of_weight, of_bias,                 of_a,  of_skip, dinitial};
  if (states == 16)
    all_back<16>(p, gradients, checkpoints, threads);
  else
    all_back<0>(p, gradients, checkpoints, threads);
  if (apart) add_up(dxs.data(), directions, size, dx);
  if (!directions) std::fill_n(dx, size, 0.0f);  // nobody else writes it
  add_up(of_weight, clips, rows * rank, dweight);
  add_up(of_a, clips, rows * states, da);
  add_up(of_bias, clips, rows, dbias);
  add_up(of_skip, clips, rows, dskip);
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
