// Depthwise 3x3 convolution, bias and GELU of tokens in one pass, forward and backward, in float32.
//
// A task is a band of rows of one image and a few channels. It copies its rows one after the other into a ring of
// three, with a zero at either end, so that borders need no thought, and whatever lies far apart in the image lies
// side by side in the nearest caches. The backward pass computes the sums before the GELU again instead of keeping
// them, and holds their gradients in a second ring. What a task is never depends on the number of threads.
//
// Letters as in ops/depthwise/__init__.py: B images, H W tokens, C channels.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/threads.h"

namespace {

constexpr int64_t TAPS = 9;
constexpr int64_t VECTORS = 64 / LANES;  // of a task, at most: 256 bytes of a token
constexpr int64_t BAND = 32;             // rows of a task, at most

struct Problem {
  int64_t batch, height, width, channels;

  int64_t bands() const { return (height + BAND - 1) / BAND; }
  int64_t parts() const { return (channels + VECTORS * LANES - 1) / (VECTORS * LANES); }
  int64_t tasks() const { return batch * bands() * parts(); }
};

// Where a task works.
struct Place {
  int64_t image, band, begin, end, first, count, vectors;  // rows begin..end, channels first..first + count

  Place(const Problem &p, int64_t task) {
    const int64_t part = task % p.parts();
    image = task / p.parts() / p.bands();
    band = task / p.parts() % p.bands();
    begin = band * BAND;
    end = std::min(begin + BAND, p.height);
    first = part * VECTORS * LANES;
    count = std::min(VECTORS * LANES, p.channels - first);
    vectors = (count + LANES - 1) / LANES;
  }

  int64_t offset(const Problem &p, int64_t y) const { return (image * p.height + y) * p.width * p.channels + first; }
  int lanes(int64_t v) const { return static_cast<int>(std::min<int64_t>(LANES, count - v * LANES)); }
};

// Three rows of a task, each with a column of zeros on either side: [3, W + 2, vectors].
class Ring {
 public:
  Ring(const Problem &problem, const Place &where)
      : p(problem), place(where), rows(3 * (p.width + 2) * place.vectors) {}

  // Column -1 of row y.
  Lanes *row(int64_t y) { return &rows[(y + 3) % 3 * (p.width + 2) * place.vectors]; }

  // Reads row y of tokens [B, H, W, C]; zeros outside of the image.
  void read(const float *tokens, int64_t y) {
    Lanes *to = row(y) + place.vectors;
    if (y < 0 || y >= p.height) return clear(y);
    const float *from = tokens + place.offset(p, y);
    for (int64_t x = 0; x < p.width; ++x, from += p.channels)
      for (int64_t v = 0; v < place.vectors; ++v) *to++ = load_part(from + v * LANES, place.lanes(v));
  }

  void clear(int64_t y) { std::fill_n(row(y), (p.width + 2) * place.vectors, Lanes{}); }

  // Calls use(x, sum of the nine taps around token x of row y) for one vector of channels.
  template <class Use>
  __attribute__((always_inline)) void convolve(int64_t y, int64_t v, const Lanes *taps, Lanes bias, Use use) {
    const Lanes *above = row(y - 1) + v, *here = row(y) + v, *below = row(y + 1) + v;
    const int64_t next = place.vectors;
    for (int64_t x = 0; x < p.width; ++x, above += next, here += next, below += next) {
      Lanes upper = bias, middle = here[0] * taps[3], lower = below[0] * taps[6];
      for (int64_t i = 0; i < 3; ++i) {
        upper += above[i * next] * taps[i];
        if (i) middle += here[i * next] * taps[3 + i];
        if (i) lower += below[i * next] * taps[6 + i];
      }
      use(x, upper + middle + lower);
    }
  }

 private:
  const Problem &p;
  const Place &place;
  std::vector<Lanes> rows;
};

// The taps and the bias of a task's channels, from weight [C, 3, 3] and bias [C].
struct Filter {
  std::vector<Lanes> taps, flipped, bias;  // [vectors, 9] twice, [vectors]

  Filter(const Place &place, const float *weight, const float *biases)
      : taps(place.vectors * TAPS), flipped(taps.size()), bias(place.vectors) {
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

// The normal distribution: density(x) and tail(x) = 1 - Phi(|x|). The tail over exp(-x^2 / 2) is a rational function
// with positive coefficients, minimax in the error of the tail, 6e-8, with 5 % of the relative error beyond 2.4.
struct Normal {
  Lanes density, tail;
};

LGRNET_INLINE Normal normal(Lanes x) {
  const Lanes t = at_most(magnitude(x), all(16.0f));  // beyond, the tail is 0 and the polynomials overflow
  const Lanes bell = exp2(x * x * all(-0.5f * LOG2_E));
  Lanes p = all(1.4996072e-2f), q = all(3.7597786e-2f);
  p = p * t + all(1.1103995e-1f);
  p = p * t + all(3.4749665e-1f);
  p = p * t + all(4.9999997e-1f);
  q = q * t + all(2.7803063e-1f);
  q = q * t + all(9.1326163e-1f);
  q = q * t + all(1.4928740f);
  q = q * t + all(1.0f);
  return {bell * all(0.39894228f), bell * (p / q)};
}

// x Phi(x)
LGRNET_INLINE Lanes gelu(Lanes x) {
  return at_least(x, all(0.0f)) - magnitude(x) * normal(x).tail;
}

// Phi(x) + x density(x)
LGRNET_INLINE Lanes gelu_slope(Lanes x) {
  const Normal at = normal(x);
  return (x < all(0.0f) ? at.tail : all(1.0f) - at.tail) + x * at.density;
}

void forward(const Problem &p, const float *tokens, const float *weight, const float *bias, float *out, int64_t task) {
  const Place place(p, task);
  const Filter filter(place, weight, bias);
  Ring ring(p, place);
  std::vector<Lanes> sums(p.width);
  for (int64_t y = place.begin - 1; y <= place.begin; ++y) ring.read(tokens, y);
  for (int64_t y = place.begin; y < place.end; ++y) {
    ring.read(tokens, y + 1);
    for (int64_t v = 0; v < place.vectors; ++v) {
      const int lanes = place.lanes(v);
      float *to = out + place.offset(p, y) + v * LANES;
      // Two loops: one alone would be a chain too long for the processor to overlap those of enough tokens.
      ring.convolve(y, v, &filter.taps[v * TAPS], filter.bias[v], [&](int64_t x, Lanes sum) { sums[x] = sum; });
      for (int64_t x = 0; x < p.width; ++x) store_part(to + x * p.channels, gelu(sums[x]), lanes);
    }
  }
}

// The gradient of one band: all of dtokens, and its share of those of weight and bias.
class Backward {
 public:
  Backward(const Problem &problem, int64_t task, const float *weight, const float *bias)
      : p(problem), place(p, task), filter(place, weight, bias), ring(p, place), slopes(p, place),
        sums(place.vectors * (TAPS + 1)) {}

  void run(const float *tokens, const float *dout, float *dtokens) {
    for (int64_t y = place.begin - 2; y < place.begin; ++y) ring.read(tokens, y);
    for (int64_t y = place.begin - 1; y <= place.end; ++y) {
      ring.read(tokens, y + 1);
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
    for (int64_t v = 0; v < place.vectors; ++v) {
      Lanes *slope = slopes.row(y) + place.vectors + v;
      ring.convolve(y, v, &filter.taps[v * TAPS], filter.bias[v],
                    [&](int64_t x, Lanes sum) { slope[x * place.vectors] *= gelu_slope(sum); });
    }
  }

  void add_sums(int64_t y) {
    const int64_t next = place.vectors;
    for (int64_t v = 0; v < place.vectors; ++v) {
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

  void write(int64_t y, float *dtokens) {
    for (int64_t v = 0; v < place.vectors; ++v) {
      const int lanes = place.lanes(v);
      float *to = dtokens + place.offset(p, y) + v * LANES;
      slopes.convolve(y, v, &filter.flipped[v * TAPS], Lanes{},
                      [&](int64_t x, Lanes sum) { store_part(to + x * p.channels, sum, lanes); });
    }
  }

  const Problem &p;
  const Place place;
  const Filter filter;
  Ring ring, slopes;
  std::vector<Lanes> sums;
};

}  // namespace

extern "C" {

// tokens and out [B, H, W, C], weight [C, 3, 3], bias [C]. No size is 0.
void lgrnet_depthwise_forward(const float *tokens, const float *weight, const float *bias, float *out, int64_t batch,
                              int64_t height, int64_t width, int64_t channels, int threads) {
  const Problem p{batch, height, width, channels};
  parallel_for(p.tasks(), threads, [&](int64_t task) { forward(p, tokens, weight, bias, out, task); });
}

// Gradients of tokens, weight and bias; all are written, none is added to.
void lgrnet_depthwise_backward(const float *tokens, const float *weight, const float *bias, const float *dout,
                               float *dtokens, float *dweight, float *dbias, int64_t batch, int64_t height,
                               int64_t width, int64_t channels, int threads) {
  const Problem p{batch, height, width, channels};
  const int64_t bands = batch * p.bands();
  std::vector<float> shares(bands * (TAPS + 1) * channels);
  parallel_for(p.tasks(), threads, [&](int64_t task) {
    Backward backward(p, task, weight, bias);
    backward.run(tokens, dout, dtokens);
    backward.store_sums(&shares[task / p.parts() * (TAPS + 1) * channels]);
  });
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t k = 0; k <= TAPS; ++k) {
      double sum = 0;
      for (int64_t band = 0; band < bands; ++band) sum += shares[(band * (TAPS + 1) + k) * channels + c];
      (k < TAPS ? dweight[c * TAPS + k] : dbias[c]) = static_cast<float>(sum);
    }
}
}
