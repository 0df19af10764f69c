// Layer norm of tokens, forward, in float32. Tokens of bfloat16 are read and written as they are.
//
// LANES tokens at a time: their sums across the lanes are one vector, a lane for each token, and so are the mean and
// the deviation. They stay in the nearest cache for the three passes: the mean, the deviation from it, the result.
//
// A token's numbers are summed in one order, whatever stands beside it and however many threads there are.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../../cpu/bfloat16.h"
#include "../../cpu/threads.h"
#include "../../cpu/transpose.h"

namespace {

constexpr int64_t PART = 32 * LANES;  // tokens of a task

struct Problem {
  int64_t rows, channels, step;  // numbers from one token of x to the next; those of out lie without a gap
  float epsilon;
};

// The vectors of a token. WHOLE: all are full. Copied, so that the compiler knows that nothing written changes it.
template <bool WHOLE>
struct Channels {
  int64_t count;

  int64_t vectors() const { return (count + LANES - 1) / LANES; }
  int lanes(int64_t v) const { return WHOLE ? LANES : static_cast<int>(std::min<int64_t>(LANES, count - v * LANES)); }
};

LGRNET_INLINE Lanes root(Lanes x) {
#if LGRNET_LANES == 16
  return _mm512_sqrt_ps(x);
#elif LGRNET_LANES == 8
  return _mm256_sqrt_ps(x);
#else
  for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// The sums across the lanes of LANES vectors, each of a token.
LGRNET_INLINE Lanes across(const Lanes *sums) {
  Lanes fours[LANES / 4];
  for (int i = 0; i < LANES / 4; ++i) fours[i] = sums_of_four(sums + 4 * i);
  return sums_of_fours(fours);
}

// A vector with a lane for each token: the means of use(its numbers, which token) over the channels.
template <bool WHOLE, class Use>
LGRNET_INLINE Lanes means(Channels<WHOLE> channels, const Lanes *tokens, Use use) {
  Lanes total[LANES];
  const int64_t last = channels.vectors() - 1;
  for (int r = 0; r < LANES; ++r, tokens += last + 1) {
    Lanes sum{};
    for (int64_t v = 0; v < last; ++v) sum += use(tokens[v], r);
    total[r] = sum + first_lanes(use(tokens[last], r), channels.lanes(last));
  }
  return across(total) / all(static_cast<float>(channels.count));
}

// `rows` tokens, up to LANES.
template <bool WHOLE, class T>
void normalise(const Problem &p, Channels<WHOLE> channels, const T *x, const Lanes *weight, const Lanes *bias, T *out,
               int rows, Lanes *tokens) {
  const int64_t vectors = channels.vectors(), step = p.step;
  for (int r = 0; r < rows; ++r)
    for (int64_t v = 0; v < vectors; ++v)
      tokens[r * vectors + v] = load_part(x + r * step + v * LANES, channels.lanes(v));
  const Lanes mean = means(channels, tokens, [](Lanes some, int) LGRNET_MEMBER { return some; });
  const Lanes variance = means(channels, tokens, [&](Lanes some, int r) LGRNET_MEMBER {
    const Lanes apart = some - all(mean[r]);
    return apart * apart;
  });
  const Lanes scale = all(1.0f) / root(variance + all(p.epsilon));
  for (int r = 0; r < rows; ++r, tokens += vectors, out += channels.count) {
    const Lanes middle = all(mean[r]), factor = all(scale[r]);
    for (int64_t v = 0; v < vectors; ++v)
      store_part(out + v * LANES, (tokens[v] - middle) * factor * weight[v] + bias[v], channels.lanes(v));
  }
}

template <bool WHOLE, class T>
void normalise_all(const Problem &p, const T *x, const T *weight, const T *bias, T *out, int threads) {
  const Channels<WHOLE> channels{p.channels};
  std::vector<Lanes> weights(channels.vectors()), biases(channels.vectors());
  for (int64_t v = 0; v < channels.vectors(); ++v) {
    weights[v] = load_part(weight + v * LANES, channels.lanes(v));
    biases[v] = load_part(bias + v * LANES, channels.lanes(v));
  }
  parallel_for((p.rows + PART - 1) / PART, threads, [&](int64_t task) {
    std::vector<Lanes> tokens(LANES * channels.vectors());
    const int64_t end = std::min((task + 1) * PART, p.rows);
    for (int64_t row = task * PART; row < end; row += LANES)
      normalise(p, channels, x + row * p.step, weights.data(), biases.data(), out + row * p.channels,
                static_cast<int>(std::min<int64_t>(LANES, end - row)), tokens.data());
  });
}

}  // namespace

extern "C" {

// x [rows, channels], whose rows lie `step` numbers apart, out [rows, channels], weight and bias [channels] are of float
// or, if `bfloat16` is not 0, of BFloat16. No size is 0.
int lgrnet_layer_norm(const void *x, const void *weight, const void *bias, void *out, int64_t rows, int64_t channels,
                      int64_t step, int64_t bfloat16, float epsilon, int threads) try {
  const Problem p{rows, channels, step, epsilon};
  const auto run = [&](auto *to) {
    using T = std::remove_pointer_t<decltype(to)>;
    (channels % LANES ? normalise_all<false, T> : normalise_all<true, T>)(
        p, static_cast<const T *>(x), static_cast<const T *>(weight), static_cast<const T *>(bias), to, threads);
  };
  bfloat16 ? run(static_cast<BFloat16 *>(out)) : run(static_cast<float *>(out));
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
