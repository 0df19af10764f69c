// Multi-scale deformable attention, forward and backward, in float32.
//
// A thread owns a few heads of one clip: few enough that their padded maps stay in the nearer caches, and enough that
// a query's numbers are read in a row. It takes LANES queries of a head at a time: first where their samples are, with
// the queries in the lanes; then the corners, with the channels in the lanes.
//
// Letters as in ops/deform/__init__.py: B clips or frames, S tokens, Q queries, d channels of a head.
#include "sampling.h"

#include "../../cpu/threads.h"

namespace {

using namespace deform;

constexpr int64_t HEADS = 8;  // of a thread at a time, at most
constexpr int64_t RUN = 16;   // queries of a head in a row on the way forward, which look at much the same places

// Fewer heads at a time where there are more threads than clips; each head's result is the same.
int64_t heads_at_a_time(const Problem &p, int threads) {
  int64_t most = std::min(HEADS, p.heads);
  while (most > 1 && p.clips * ((p.heads + most - 1) / most) < threads) most = (most + 1) / 2;
  return most;
}

#if LGRNET_LANES == 16
// For 8 channels, when the two corners of a row are one vector. Eight queries' weights of left corners and then of right
// ones are another: these spread those of each query.
LGRNET_INLINE void spread(__m512i *query) {
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) {
    query[q] = _mm512_add_epi32(_mm512_set_epi32(8, 8, 8, 8, 8, 8, 8, 8, 0, 0, 0, 0, 0, 0, 0, 0), _mm512_set1_epi32(q));
    asm("" : "+v"(query[q]));  // in a register: else the compiler loads the constant again at every use
  }
}

LGRNET_INLINE __m256 halves(__m512 sums) {
  return _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps(sums, 1));
}

// The outputs of eight queries from the first or the second half of the lanes.
template <int HALF>
LGRNET_INLINE void read_eights(const Planes &planes, const float *plane, const Samples &s, __m256 *out) {
  constexpr int PART = HALF ? 0xEE : 0x44;
  __m512i one[8];
  spread(one);
  __m512 sums[8] = {};
  for (int64_t i = 0; i < s.count; ++i) {
    const Sample &sample = s.samples[i];
    const int32_t *at = reinterpret_cast<const int32_t *>(&sample.at) + HALF * 8;
    const float *below = plane + planes.row[i / s.p.points];
    const __m512 upper = _mm512_shuffle_f32x4(sample.top_left, sample.top_right, PART);
    const __m512 lower = _mm512_shuffle_f32x4(sample.low_left, sample.low_right, PART);
#pragma GCC unroll 8
    for (int q = 0; q < 8; ++q) {
      sums[q] = _mm512_fmadd_ps(_mm512_permutexvar_ps(one[q], upper), _mm512_loadu_ps(plane + at[q]), sums[q]);
      sums[q] = _mm512_fmadd_ps(_mm512_permutexvar_ps(one[q], lower), _mm512_loadu_ps(below + at[q]), sums[q]);
    }
  }
#pragma GCC unroll 8
  for (int q = 0; q < 8; ++q) out[q] = halves(sums[q]);
}
#endif

#if LGRNET_LANES == 8
// For 8 channels, when a corner is one vector: the outputs of four queries from number q on, which wait for their
// corners side by side. The weights of a query's corners lie in a row, so that one load brings them all.
LGRNET_INLINE Several<4> read_four(const Planes &planes, const float *plane, const Samples &s, int q) {
  Several<4> upper{}, lower{};
  for (int64_t level = 0, i = 0; level < s.p.levels; ++level) {
    const float *below = plane + planes.row[level];
    for (const int64_t end = i + s.p.points; i < end; ++i) {
      const Sample &sample = s.samples[i];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const int64_t at = sample.at[q + k];
        const Lanes weights = _mm256_broadcast_ps(reinterpret_cast<const __m128 *>(&sample.top_left + k) + q / 4);
        upper[k] += load(plane + at) * (Lanes)_mm256_permute_ps(weights, 0x00);
        upper[k] += load(plane + at + 8) * (Lanes)_mm256_permute_ps(weights, 0x55);
        lower[k] += load(below + at) * (Lanes)_mm256_permute_ps(weights, 0xAA);
        lower[k] += load(below + at + 8) * (Lanes)_mm256_permute_ps(weights, 0xFF);
      }
    }
  }
  return upper + lower;
}
#endif

// Uses up the weights of the samples.
void read(const Planes &planes, const float *plane, Samples &s, float *out, int64_t step, int count) {
#if LGRNET_LANES == 8
  if (s.p.channels == 8) {
    for (Sample &sample : s.samples) transpose_fours(&sample.top_left);
    for (int q = 0; q < count; q += 4) {
      const auto found = read_four(planes, plane, s, q);
      for (int k = 0; k < 4 && q + k < count; ++k) store(out + (q + k) * step, found[k]);
    }
    return;
  }
#elif LGRNET_LANES == 16
  if (s.p.channels == 8) {
    __m256 found[LANES];
    read_eights<0>(planes, plane, s, found);
    read_eights<1>(planes, plane, s, found + 8);
    for (int q = 0; q < count; ++q) _mm256_storeu_ps(out + q * step, found[q]);
    return;
  }
#endif
  const int64_t channels = s.p.channels;
  for (int q = 0; q < count; ++q)
    for (int64_t c = 0; c < channels; c += LANES) {
      Lanes total{};
      for (int64_t i = 0; i < s.count; ++i) {
        const Sample &sample = s.samples[i];
        const float *corner = plane + sample.at[q] + c, *below = corner + planes.row[i / s.p.points];
        total += load(corner) * all(sample.top_left[q]) + load(corner + planes.width) * all(sample.top_right[q]);
        total += load(below) * all(sample.low_left[q]) + load(below + planes.width) * all(sample.low_right[q]);
      }
      store_part(out + q * step + c, total, static_cast<int>(std::min<int64_t>(LANES, channels - c)));
    }
}

struct Gradients {
  const float *dout;
  float *dvalue, *doffsets, *dlogits;
};

// The products of the four corners of LANES queries with the gradient of the output.
struct Dots {
  Lanes top_left, top_right, low_left, low_right;
};

// The way back of a few heads of one clip.
struct Back {
  const Problem &p;
  const Gradients &grad;
  Planes planes, dplanes;
  Samples samples;
  std::vector<Dots> dots;
  std::vector<Lanes> dlogits, doffsets;  // columns

  Back(const Problem &problem, const Centers &centers, const Gradients &gradients, int64_t task, int64_t heads)
      : p(problem), grad(gradients), planes(p, task, heads), dplanes(p, task, heads),
        samples(p, planes, centers, true), dots(samples.count), dlogits(samples.count), doffsets(2 * samples.count) {}

  void run() {
    planes.fill(p.value);
    for (int64_t query = 0; query < p.queries; query += LANES) {
      int64_t next = query + LANES;
      for (int64_t head = 0; head < planes.heads; ++head) {
        for (const int64_t end = next + samples.ahead(); next < end; ++next) {
          samples.expect(next);
          samples.expect<false>(grad.dout, p.channels, next);
          samples.expect<true>(grad.dlogits, samples.count, next);
          samples.expect<true>(grad.doffsets, 2 * samples.count, next);
        }
        samples.find(query, head);
        const float *dout = grad.dout + samples.row(query, head) * p.channels;
        through_corners(planes.of(head), dplanes.of(head), dout, samples.rows(query));
        through_places();
        store_columns(dlogits, grad.dlogits, query, head, samples.count);
        store_columns(doffsets, grad.doffsets, query, head, 2 * samples.count);
      }
    }
    dplanes.empty(grad.dvalue);
  }

  // Adds to the gradient of the planes, and multiplies each corner with the gradient of the output.
  void through_corners(const float *plane, float *dplane, const float *dout, int count) {
    const int64_t step = p.heads * p.channels;
#if LGRNET_LANES >= 8
    if (p.channels == 8) return through_eights(plane, dplane, dout, step, count);
#endif
    for (int64_t i = 0; i < samples.count; ++i) {
      const Sample &sample = samples.samples[i];
      const int64_t below = planes.row[i / p.points], right = planes.width;
      for (int q = 0; q < count; ++q) {
        const int64_t at = sample.at[q];
        dots[i].top_left[q] = through_corner(plane + at, dplane + at, dout + q * step, sample.top_left[q]);
        dots[i].top_right[q] =
            through_corner(plane + at + right, dplane + at + right, dout + q * step, sample.top_right[q]);
        dots[i].low_left[q] =
            through_corner(plane + at + below, dplane + at + below, dout + q * step, sample.low_left[q]);
        dots[i].low_right[q] = through_corner(plane + at + below + right, dplane + at + below + right,
                                              dout + q * step, sample.low_right[q]);
      }
    }
  }

  float through_corner(const float *corner, float *dcorner, const float *dout, float weight) const {
    Lanes dot{};
    for (int64_t c = 0; c < p.channels; c += LANES) {
      const Lanes g = load_part(dout + c, static_cast<int>(std::min<int64_t>(LANES, p.channels - c)));
      dot += load(corner + c) * g;
      store(dcorner + c, load(dcorner + c) + g * all(weight));
    }
    return sum(dot);
  }

#if LGRNET_LANES == 8
  void through_eights(const float *plane, float *dplane, const float *dout, int64_t step, int count) {
    Lanes g[LANES] = {};  // the gradients of the queries' outputs
    for (int q = 0; q < count; ++q) g[q] = load(dout + q * step);
    for (int64_t i = 0; i < samples.count; ++i) {
      const Sample &sample = samples.samples[i];
      const int64_t below = planes.row[i / p.points];
      dots[i].top_left = through_eight(plane, dplane, sample, sample.top_left, g);
      dots[i].top_right = through_eight(plane + 8, dplane + 8, sample, sample.top_right, g);
      dots[i].low_left = through_eight(plane + below, dplane + below, sample, sample.low_left, g);
      dots[i].low_right = through_eight(plane + below + 8, dplane + below + 8, sample, sample.low_right, g);
    }
  }

  // One corner of eight queries: its products with their gradients.
  static inline __attribute__((always_inline)) Lanes through_eight(const float *plane, float *dplane,
                                                                   const Sample &sample, const Lanes &weight,
                                                                   const Lanes *g) {
    Lanes fours[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Lanes products[4];
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const int q = 4 * half + k;
        const int64_t at = sample.at[q];
        products[k] = load(plane + at) * g[q];
        store(dplane + at, load(dplane + at) + g[q] * all(weight[q]));
      }
      fours[half] = sums_of_four(products);
    }
    return sums_of_fours(fours);
  }
#elif LGRNET_LANES == 16
  void through_eights(const float *plane, float *dplane, const float *dout, int64_t step, int count) {
    __m512 g[LANES];  // twice the gradient of a query's output
    for (int q = 0; q < LANES; ++q)
      g[q] = q < count ? _mm512_broadcast_f32x8(_mm256_loadu_ps(dout + q * step)) : _mm512_setzero_ps();
    __m512i one[8];
    spread(one);
    for (int64_t i = 0; i < samples.count; ++i) {
      const Sample &sample = samples.samples[i];
      const int32_t *at = reinterpret_cast<const int32_t *>(&sample.at);
      const int64_t below = planes.row[i / p.points];
      __m512 fours[4];
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        const __m512 upper = half ? _mm512_shuffle_f32x4(sample.top_left, sample.top_right, 0xEE)
                                  : _mm512_shuffle_f32x4(sample.top_left, sample.top_right, 0x44);
        const __m512 lower = half ? _mm512_shuffle_f32x4(sample.low_left, sample.low_right, 0xEE)
                                  : _mm512_shuffle_f32x4(sample.low_left, sample.low_right, 0x44);
        __m512 products[16];
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) {
          const int q = half * 8 + k;
          const float *corner = plane + at[q];
          products[k / 4 * 8 + k % 4] = _mm512_mul_ps(g[q], _mm512_loadu_ps(corner));
          products[k / 4 * 8 + k % 4 + 4] = _mm512_mul_ps(g[q], _mm512_loadu_ps(corner + below));
          float *dcorner = dplane + at[q];
          add_to(dcorner, _mm512_mul_ps(g[q], _mm512_permutexvar_ps(one[k], upper)));
          add_to(dcorner + below, _mm512_mul_ps(g[q], _mm512_permutexvar_ps(one[k], lower)));
        }
        fours[2 * half] = sums_of_eights(products);
        fours[2 * half + 1] = sums_of_eights(products + 8);
      }
      const __m512 left = _mm512_shuffle_f32x4(fours[0], fours[1], 0x88), right = _mm512_shuffle_f32x4(fours[0], fours[1], 0xDD);
      const __m512 left_ = _mm512_shuffle_f32x4(fours[2], fours[3], 0x88), right_ = _mm512_shuffle_f32x4(fours[2], fours[3], 0xDD);
      dots[i] = {_mm512_shuffle_f32x4(left, left_, 0x88), _mm512_shuffle_f32x4(right, right_, 0x88),
                 _mm512_shuffle_f32x4(left, left_, 0xDD), _mm512_shuffle_f32x4(right, right_, 0xDD)};
    }
  }

  // By halves: a pixel that was just added to is then read exactly as it was written, without waiting for the memory.
  LGRNET_INLINE void add_to(float *place, __m512 values) {
    _mm256_storeu_ps(place, _mm256_add_ps(_mm256_loadu_ps(place), _mm512_castps512_ps256(values)));
    _mm256_storeu_ps(place + 8, _mm256_add_ps(_mm256_loadu_ps(place + 8), _mm512_extractf32x8_ps(values, 1)));
  }

  // The sums of the 16 halves of eight vectors: of the lower halves of the first four, of their upper halves, of the
  // lower halves of the last four, and of their upper ones.
  LGRNET_INLINE __m512 sums_of_eights(const __m512 *v) {
    Lanes pairs[4], quads[2];
    for (int k = 0; k < 4; ++k) pairs[k] = weave_low(v[2 * k], v[2 * k + 1]) + weave_high(v[2 * k], v[2 * k + 1]);
    for (int k = 0; k < 2; ++k)
      quads[k] = join_low(pairs[2 * k], pairs[2 * k + 1]) + join_high(pairs[2 * k], pairs[2 * k + 1]);
    return _mm512_add_ps(_mm512_shuffle_f32x4(quads[0], quads[1], 0x88), _mm512_shuffle_f32x4(quads[0], quads[1], 0xDD));
  }
#endif

  // From the products with the corners to the gradients of places and logits.
  void through_places() {
    Lanes mean{};
    for (int64_t i = 0; i < samples.count; ++i) {
      const Slope &slope = samples.slopes[i];
      const Lanes right = slope.right, below = slope.below, left = all(1.0f) - right, above = all(1.0f) - below;
      const Dots &dot = dots[i];
      const Lanes upper = left * dot.top_left + right * dot.top_right;
      const Lanes lower = left * dot.low_left + right * dot.low_right;
      dlogits[i] = above * upper + below * lower;
      mean += dlogits[i] * slope.share;
      doffsets[2 * i] = slope.share_x * (above * (dot.top_right - dot.top_left) + below * (dot.low_right - dot.low_left));
      doffsets[2 * i + 1] = slope.share_y * (lower - upper);
    }
    for (int64_t i = 0; i < samples.count; ++i) dlogits[i] = (dlogits[i] - mean) * samples.slopes[i].share;
  }

  // The way back of Samples::load_columns.
  void store_columns(const std::vector<Lanes> &columns, float *numbers, int64_t query, int64_t head, int64_t length) {
    float *first = numbers + samples.row(query, head) * length;
    const int64_t stride = p.heads * length;
    if (samples.rows(query) == LANES) return scatter_columns(columns.data(), length, first, stride);
    scatter_columns(columns.data(), length, samples.last_rows.data(), length);
    for (int r = 0; r < samples.rows(query); ++r) std::copy_n(&samples.last_rows[r * length], length, first + r * stride);
  }
};

}  // namespace

extern "C" {

// out [B, Q, heads, d]; shapes int32 [levels, 2] (height, width); reference_clips is B or 1. At least one sample.
int lgrnet_deform_forward(const float *value, const float *offsets, const float *logits, const float *reference,
                          const int32_t *shapes, float *out, int64_t clips, int64_t tokens, int64_t queries,
                          int64_t heads, int64_t channels, int64_t levels, int64_t points, int64_t reference_clips,
                          int threads) try {
  const Problem p{value, offsets, logits,   reference, shapes, clips,          tokens,
                  queries, heads, channels, levels,    points, reference_clips};
  const Centers centers(p);
  const int64_t most = heads_at_a_time(p, threads);
  parallel_for(clips * ((heads + most - 1) / most), threads, [&](int64_t task) {
    Planes planes(p, task, most);
    planes.fill(value);
    Samples samples(p, planes, centers, false);
    for (int64_t run = 0; run < queries; run += RUN) {
      int64_t next = run + RUN;
      for (int64_t head = 0; head < planes.heads; ++head)
        for (int64_t query = run; query < std::min(run + RUN, queries); query += LANES) {
          for (const int64_t end = next + samples.ahead(); next < end; ++next) {
            samples.expect(next);
            samples.expect<true>(out, channels, next);
          }
          samples.find(query, head);
          read(planes, planes.of(head), samples, out + samples.row(query, head) * channels, heads * channels,
               samples.rows(query));
        }
    }
  });
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}

// Gradients of value, offsets and logits; all are written, none is added to.
int lgrnet_deform_backward(const float *value, const float *offsets, const float *logits, const float *reference,
                           const int32_t *shapes, const float *dout, float *dvalue, float *doffsets, float *dlogits,
                           int64_t clips, int64_t tokens, int64_t queries, int64_t heads, int64_t channels,
                           int64_t levels, int64_t points, int64_t reference_clips, int threads) try {
  const Problem p{value, offsets, logits,   reference, shapes, clips,          tokens,
                  queries, heads, channels, levels,    points, reference_clips};
  const Gradients gradients{dout, dvalue, doffsets, dlogits};
  const Centers centers(p);
  const int64_t most = heads_at_a_time(p, threads);
  parallel_for(clips * ((heads + most - 1) / most), threads,
               [&](int64_t task) { Back(p, centers, gradients, task, most).run(); });
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
