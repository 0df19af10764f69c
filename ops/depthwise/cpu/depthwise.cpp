// Depthwise 3x3 convolution, bias and GELU of tokens in one pass, forward and backward, in float32. Tokens of bfloat16
// and their gradients are read and written as they are.
//
// A task is a band of rows of one image and a few channels. It copies its rows one after the other into a ring of
// three, with a zero at either end, so that borders need no thought, and whatever lies far apart in the image lies
// side by side in the nearest caches. The backward pass computes the sums before the GELU again instead of keeping
// them, and holds their gradients in a second ring. What a task is never depends on the number of threads.
//
// Letters as in ops/depthwise/__init__.py: B images, H W tokens, C channels.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../../cpu/bfloat16.h"
#include "../../cpu/threads.h"

namespace {

constexpr int64_t TAPS = 9;
constexpr int64_t VECTORS = 64 / LANES;  // of a task, at most: 256 bytes of a token
constexpr int64_t BAND = 32;             // rows of a task, at most

// What the next row needs is asked for to come this near: its tokens lie so far apart that they all fall into a few
// places of the first cache, and push each other out.
constexpr int SECOND_CACHE = 2;

struct Problem {
  int64_t batch, height, width, channels;

  int64_t bands() const { return (height + BAND - 1) / BAND; }
  int64_t parts() const { return (channels + VECTORS * LANES - 1) / (VECTORS * LANES); }
  int64_t tasks() const { return batch * bands() * parts(); }
  bool whole(int64_t task) const { return (task % parts() + 1) * VECTORS * LANES <= channels; }
};

// Where a task works. WHOLE: it has VECTORS full vectors of channels, which the compiler then knows.
template <bool WHOLE>
struct Place {
  int64_t image, band, begin, end, first, count;  // rows begin..end, channels first..first + count

  Place(const Problem &p, int64_t task) {
    const int64_t part = task % p.parts();
    image = task / p.parts() / p.bands();
    band = task / p.parts() % p.bands();
    begin = band * BAND;
    end = std::min(begin + BAND, p.height);
    first = part * VECTORS * LANES;
    count = std::min(VECTORS * LANES, p.channels - first);
  }

  int64_t offset(const Problem &p, int64_t y) const { return (image * p.height + y) * p.width * p.channels + first; }
  int64_t vectors() const { return WHOLE ? VECTORS : (count + LANES - 1) / LANES; }
  int lanes(int64_t v) const { return WHOLE ? LANES : static_cast<int>(std::min<int64_t>(LANES, count - v * LANES)); }
};

// Three rows of a task, each with a column of zeros on either side: [3, W + 2, vectors].
template <bool WHOLE>
class Ring {
 public:
  Ring(const Problem &problem, const Place<WHOLE> &where)
      : p(problem), place(where), rows(3 * (p.width + 2) * place.vectors()) {}

  // Column -1 of row y.
  Lanes *row(int64_t y) { return &rows[(y + 3) % 3 * (p.width + 2) * place.vectors()]; }

  // Reads row y of tokens [B, H, W, C], and adds the channels' shift [C] if there is one; zeros outside of the image.
  template <class T>
  void read(const T *tokens, int64_t y, const float *shift = nullptr) {
    if (y < 0 || y >= p.height) return clear(y);
    Lanes added[VECTORS] = {};
    for (int64_t v = 0; shift && v < place.vectors(); ++v)
      added[v] = load_part(shift + place.first + v * LANES, place.lanes(v));
    Lanes *to = row(y) + place.vectors();
    const T *from = tokens + place.offset(p, y);
    const int64_t next_row = y + 1 < p.height ? p.width * p.channels : 0;
    for (int64_t x = 0; x < p.width; ++x, from += p.channels) {
      for (int64_t c = 0; c < place.vectors() * LANES; c += 64 / sizeof(T))
        __builtin_prefetch(from + next_row + c, 0, SECOND_CACHE);
      for (int64_t v = 0; v < place.vectors(); ++v)
        *to++ = load_part(from + v * LANES, place.lanes(v)) + added[v];
    }
  }

  void clear(int64_t y) { std::fill_n(row(y), (p.width + 2) * place.vectors(), Lanes{}); }

  // Calls use(x, v, sums of the nine taps around N tokens of row y from x on) for every vector v of the channels; N is
  // 4, and 1 for the last ones.
  template <class Use>
  LGRNET_MEMBER void convolve(int64_t y, const Lanes *taps, const Lanes *bias, Use use) {
    const Lanes *near[3] = {row(y - 1), row(y), row(y + 1)};
    int64_t x = 0;
    for (; x + 4 <= p.width; x += 4) along<4>(near, x, taps, bias, use);
    for (; x < p.width; ++x) along<1>(near, x, taps, bias, use);
  }

 private:
  template <int N, class Use>
  LGRNET_MEMBER void along(const Lanes *const near[3], int64_t x, const Lanes *taps, const Lanes *bias, Use use) {
    const int64_t next = place.vectors();
    for (int64_t v = 0; v < next; ++v, taps += TAPS) {
      auto sums = each<N>([&](int) { return bias[v]; });
#pragma GCC unroll 3
      for (int64_t k = 0; k < 3; ++k) {
        const Lanes *columns = near[k] + x * next + v;
#pragma GCC unroll 3
        for (int64_t i = 0; i < 3; ++i)
          sums = sums + each<N>([&](int n) LGRNET_MEMBER { return columns[(n + i) * next]; }) * taps[3 * k + i];
      }
      use(x, v, sums);
    }
  }

  const Problem &p;
  const Place<WHOLE> &place;
  std::vector<Lanes> rows;
};

// The taps and the bias of a task's channels, from weight [C, 3, 3] and bias [C].
struct Filter {
  std::vector<Lanes> taps, flipped, bias;  // [vectors, 9] twice, [vectors]

  template <bool WHOLE>
  Filter(const Place<WHOLE> &place, const float *weight, const float *biases)
      : taps(place.vectors() * TAPS), flipped(taps.size()), bias(place.vectors()) {
    for (int64_t c = 0; c < place.count; ++c) {
      const int64_t v = c / LANES, lane = c % LANES;
      bias[v][lane] = biases[place.first + c];
      for (int64_t k = 0; k < TAPS; ++k) {
        taps[v * TAPS + k][lane] = weight[(place.first + c) * TAPS + k];
        flipped[v * TAPS + TAPS - 1 - k][lane] = taps[v * TAPS + k][lane];
      }
    }
  }
};

// The tail 1 - Phi(t) of the normal distribution is bell times a rational function of t with positive coefficients,
// minimax in the error of the tail, 6e-8, with 5 % of the relative error beyond 2.4.
struct Normal {
  Lanes t, bell, ratio;  // |x| or the limit, exp(-t^2 / 2), the rational function
};

LGRNET_INLINE Normal normal(Lanes x) {
  // Beyond, the tail is 0 to every digit of 1, and not far from where numbers lose theirs and become slow.
  const Lanes t = at_most(magnitude(x), all(12.5f));
  const Lanes bell = exp2_within(Several<1>{{t * t * all(-0.5f * LOG2_E)}})[0];
  Lanes p = all(1.4996072e-2f), q = all(3.7597786e-2f);
  p = p * t + all(1.1103995e-1f);
  p = p * t + all(3.4749665e-1f);
  p = p * t + all(4.9999997e-1f);
  q = q * t + all(2.7803063e-1f);
  q = q * t + all(9.1326163e-1f);
  q = q * t + all(1.4928740f);
  q = q * t + all(1.0f);
  return {t, bell, p / q};
}

// x Phi(x)
LGRNET_INLINE Lanes gelu(Lanes x) {
  const Normal at = normal(x);
  return at_least(x, all(0.0f)) - at.t * (at.bell * at.ratio);
}

// Phi(x) + x density(x)
LGRNET_INLINE Lanes gelu_slope(Lanes x) {
  const Normal at = normal(x);
  const Lanes below = at.bell * (at.ratio - at.t * all(0.39894228f));
  return x < all(0.0f) ? below : all(1.0f) - below;
}

template <class T>
struct Inputs {
  const T *tokens;
  const float *shift, *weight, *bias;  // shift may be null
};

// A row of a task in [B, H, W, C] that is written. The lines of the next one are asked for: else each store would wait
// for its own.
template <bool WHOLE, class T>
class OutRow {
 public:
  OutRow(const Problem &problem, const Place<WHOLE> &where, T *out, int64_t y)
      : p(problem), place(where), to(out + place.offset(p, y)), next_row(y + 1 < place.end ? p.width * p.channels : 0) {}

  LGRNET_MEMBER void store(int64_t x, int64_t v, Lanes lanes) const {
    T *at = to + x * p.channels + v * LANES;
    __builtin_prefetch(at + next_row, 1, SECOND_CACHE);
    store_part(at, lanes, place.lanes(v));
  }

 private:
  const Problem &p;
  const Place<WHOLE> &place;
  T *to;
  int64_t next_row;
};

template <bool WHOLE, class T>
void forward(const Problem &p, const Inputs<T> &in, T *out, int64_t task) {
  const Place<WHOLE> place(p, task);
  const Filter filter(place, in.weight, in.bias);
  Ring<WHOLE> ring(p, place);
  for (int64_t y = place.begin - 1; y <= place.begin; ++y) ring.read(in.tokens, y, in.shift);
  for (int64_t y = place.begin; y < place.end; ++y) {
    ring.read(in.tokens, y + 1, in.shift);
    const OutRow<WHOLE, T> row(p, place, out, y);
    ring.convolve(y, filter.taps.data(), filter.bias.data(), [&](int64_t x, int64_t v, const auto &sums) LGRNET_MEMBER {
      for (int n = 0; n < sums.size(); ++n) row.store(x + n, v, gelu(sums[n]));
    });
  }
}

// The gradient of one band: all of dtokens, and its share of those of weight and bias.
template <bool WHOLE, class T>
class Backward {
 public:
  Backward(const Problem &problem, const Inputs<T> &inputs, int64_t task)
      : p(problem), in(inputs), place(p, task), filter(place, in.weight, in.bias), ring(p, place), slopes(p, place),
        none(place.vectors()), sums(place.vectors() * (TAPS + 1)) {}

  void run(const T *dout, T *dtokens) {
    for (int64_t y = place.begin - 2; y < place.begin; ++y) ring.read(in.tokens, y, in.shift);
    for (int64_t y = place.begin - 1; y <= place.end; ++y) {
      ring.read(in.tokens, y + 1, in.shift);
      slopes.read(dout, y);
      if (y >= 0 && y < p.height) through_gelu(y);
      if (y >= place.begin && y < place.end) add_sums(y);
      if (y > place.begin) write(y - 1, dtokens);
    }
  }

  // [10, C]: of the nine taps and the bias.
  void store_sums(float *shares) const {
    for (int64_t c = 0; c < place.count; ++c)
      for (int64_t k = 0; k <= TAPS; ++k)
        shares[k * p.channels + place.first + c] = sums[c / LANES * (TAPS + 1) + k][c % LANES];
  }

 private:
  // Row y of dout becomes the gradient of the sums before the GELU.
  void through_gelu(int64_t y) {
    const int64_t next = place.vectors();
    Lanes *slope = slopes.row(y) + next;
    ring.convolve(y, filter.taps.data(), filter.bias.data(), [&](int64_t x, int64_t v, const auto &sum) LGRNET_MEMBER {
      for (int n = 0; n < sum.size(); ++n) slope[(x + n) * next + v] *= gelu_slope(sum[n]);
    });
  }

  void add_sums(int64_t y) {
    const int64_t next = place.vectors();
    for (int64_t v = 0; v < next; ++v) {
      const Lanes *slope = slopes.row(y) + next + v;
      const Lanes *above = ring.row(y - 1) + v, *here = ring.row(y) + v, *below = ring.row(y + 1) + v;
      Lanes row[TAPS + 1] = {};  // of this row alone: long sums lose digits
      for (int64_t x = 0; x < p.width; ++x, slope += next, above += next, here += next, below += next) {
        for (int64_t i = 0; i < 3; ++i) {
          row[i] += *slope * above[i * next];
          row[3 + i] += *slope * here[i * next];
          row[6 + i] += *slope * below[i * next];
        }
        row[TAPS] += *slope;
      }
      for (int64_t k = 0; k <= TAPS; ++k) sums[v * (TAPS + 1) + k] += row[k];
    }
  }

  void write(int64_t y, T *dtokens) {
    const OutRow<WHOLE, T> row(p, place, dtokens, y);
    slopes.convolve(y, filter.flipped.data(), none.data(), [&](int64_t x, int64_t v, const auto &sum) LGRNET_MEMBER {
      for (int n = 0; n < sum.size(); ++n) row.store(x + n, v, sum[n]);
    });
  }

  const Problem &p;
  const Inputs<T> &in;
  const Place<WHOLE> place;
  const Filter filter;
  Ring<WHOLE> ring, slopes;
  std::vector<Lanes> none, sums;
};

template <bool WHOLE, class T>
void backward(const Problem &p, const Inputs<T> &in, const T *dout, T *dtokens, float *shares, int64_t task) {
  Backward<WHOLE, T> backward(p, in, task);
  backward.run(dout, dtokens);
  backward.store_sums(shares);
}

}  // namespace

extern "C" {

// tokens and out [B, H, W, C], of float or, if `bfloat16` is not 0, of BFloat16; shift [C] or null, weight [C, 3, 3],
// bias [C]. No size is 0.
int lgrnet_depthwise_forward(const void *tokens, const float *shift, const float *weight, const float *bias, void *out,
                             int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t bfloat16,
                             int threads) try {
  const Problem p{batch, height, width, channels};
  const auto run = [&](auto *to) {
    using T = std::remove_pointer_t<decltype(to)>;
    const Inputs<T> in{static_cast<const T *>(tokens), shift, weight, bias};
    parallel_for(p.tasks(), threads, [&](int64_t task) {
      (p.whole(task) ? forward<true, T> : forward<false, T>)(p, in, to, task);
    });
  };
  bfloat16 ? run(static_cast<BFloat16 *>(out)) : run(static_cast<float *>(out));
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}

// Gradients of tokens, of their type as dout is, and of weight and bias; all are written, none is added to.
int lgrnet_depthwise_backward(const void *tokens, const float *shift, const float *weight, const float *bias,
                              const void *dout, void *dtokens, float *dweight, float *dbias, int64_t batch,
                              int64_t height, int64_t width, int64_t channels, int64_t bfloat16, int threads) try {
  const Problem p{batch, height, width, channels};
  const int64_t bands = batch * p.bands();
  std::vector<float> shares(bands * (TAPS + 1) * channels);
  const auto run = [&](auto *to) {
    using T = std::remove_pointer_t<decltype(to)>;
    const Inputs<T> in{static_cast<const T *>(tokens), shift, weight, bias};
    const T *const from = static_cast<const T *>(dout);
    parallel_for(p.tasks(), threads, [&](int64_t task) {
      float *share = &shares[task / p.parts() * (TAPS + 1) * channels];
      (p.whole(task) ? backward<true, T> : backward<false, T>)(p, in, from, to, share, task);
    });
  };
  bfloat16 ? run(static_cast<BFloat16 *>(dtokens)) : run(static_cast<float *>(dtokens));
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k <= TAPS; ++k) {
      double sum = 0;
      for (int64_t band = 0; band < bands; ++band) sum += shares[(band * (TAPS + 1) + k) * channels + c];
      (k < TAPS ? dweight[c * TAPS + k] : dbias[c]) = static_cast<float>(sum);
    }
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
