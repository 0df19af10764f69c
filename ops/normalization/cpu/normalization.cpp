// Layer norm of tokens, forward, in float32. Tokens of bfloat16 are read and written as they are.
//
// LANES tokens at a time: their sums across the lanes are one vector, a lane for each token, and so are the mean and
// the deviation. They are read three times, for the mean, the deviation from it and the result, and stay in the nearest
// cache meanwhile.
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

// Up to LANES tokens.
template <bool WHOLE>
struct Tokens {
  Channels<WHOLE> channels;
  const float *first;
  int64_t step;
  int rows;

  // Beyond the last token stands the last one.
  const float *token(int r) const { return first + std::min(r, rows - 1) * step; }

  // A vector with a lane for each token: the means of use(its numbers, which token) over the channels.
  template <class Use>
  LGRNET_MEMBER Lanes means(Use use) const {
    constexpr int ABREAST = 4;  // tokens whose sums wait for their additions side by side
    Lanes total[LANES];
    const int64_t last = channels.vectors() - 1;
    for (int r = 0; r < LANES; r += ABREAST) {
      const float *some[ABREAST];
      for (int k = 0; k < ABREAST; ++k) some[k] = token(r + k);
      Lanes sums[ABREAST] = {};
      for (int64_t v = 0; v < last; ++v)
#pragma GCC unroll 4
        for (int k = 0; k < ABREAST; ++k) sums[k] += use(load(some[k] + v * LANES), r + k);
      const int left = channels.lanes(last);
#pragma GCC unroll 4
      for (int k = 0; k < ABREAST; ++k)
        total[r + k] = sums[k] + first_lanes(use(load_part(some[k] + last * LANES, left), r + k), left);
    }
    return across(total) / all(static_cast<float>(channels.count));
  }
};

template <bool WHOLE, class T>
void normalise(Tokens<WHOLE> tokens, float epsilon, const Lanes *weight, const Lanes *bias, T *out) {
  const Channels<WHOLE> channels = tokens.channels;
  const Lanes mean = tokens.means([](Lanes some, int) LGRNET_MEMBER { return some; });
  const Lanes variance = tokens.means([&](Lanes some, int r) LGRNET_MEMBER {
    const Lanes apart = some - all(mean[r]);
    return apart * apart;
  });
  const Lanes scale = all(1.0f) / root(variance + all(epsilon));
  for (int r = 0; r < tokens.rows; ++r, out += channels.count) {
    const Lanes middle = all(mean[r]), factor = all(scale[r]);
    const float *token = tokens.token(r);
    for (int64_t v = 0; v < channels.vectors(); ++v) {
      const Lanes some = load_part(token + v * LANES, channels.lanes(v));
      store_part(out + v * LANES, (some - middle) * factor * weight[v] + bias[v], channels.lanes(v));
    }
  }
}

// Tokens of bfloat16 as float, in `room`.
template <bool WHOLE>
Tokens<WHOLE> widen(Channels<WHOLE> channels, const BFloat16 *x, int64_t step, int rows, Lanes *room) {
  const int64_t vectors = channels.vectors();
  for (int r = 0; r < rows; ++r)
    for (int64_t v = 0; v < vectors; ++v)
      room[r * vectors + v] = load_part(x + r * step + v * LANES, channels.lanes(v));
  return {channels, reinterpret_cast<const float *>(room), vectors * LANES, rows};
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
    std::vector<Lanes> widened(std::is_same_v<T, float> ? 0 : LANES * channels.vectors());
    const int64_t end = std::min((task + 1) * PART, p.rows);
    for (int64_t row = task * PART; row < end; row += LANES) {
      const int rows = static_cast<int>(std::min<int64_t>(LANES, end - row));
      const T *first = x + row * p.step;
      Tokens<WHOLE> tokens{channels, nullptr, p.step, rows};
      if constexpr (std::is_same_v<T, float>)
        tokens.first = first;
      else
        tokens = widen(channels, first, p.step, rows, widened.data());
      normalise(tokens, p.epsilon, weights.data(), biases.data(), out + row * p.channels);
    }
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
