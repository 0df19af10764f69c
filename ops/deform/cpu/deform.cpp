// Multi-scale deformable attention, forward and backward, in float32.
//
// A thread owns one head of one clip. It copies that head's maps into planes of their own with a border of zeros: then a
// sample reads its four corners without a question, and those of a row lie side by side. Places are clamped to the
// border, where their weights are 0. Softmax and places of a query are computed LANES samples at a time.
//
// Letters as in ops/deform/__init__.py: B clips or frames, S tokens, Q queries, d channels of a head; P = levels * points.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/threads.h"

namespace {

struct Problem {
  const float *value, *offsets, *logits, *reference;
  const int32_t *shapes;  // height and width of each level
  int64_t clips, tokens, queries, heads, channels, levels, points, reference_clips;

  int64_t samples() const { return levels * points; }
};

// The even and the odd numbers of 2 LANES numbers.
LGRNET_INLINE void split_pairs(const float *pairs, Lanes &even, Lanes &odd) {
#if defined(__GNUC__) && !defined(__clang__)
  IntLanes first{};
  for (int i = 0; i < LANES; ++i) first[i] = 2 * i;
  const Lanes low = load(pairs), high = load(pairs + LANES);
  even = __builtin_shuffle(low, high, first);
  odd = __builtin_shuffle(low, high, first + 1);
#else
  for (int i = 0; i < LANES; ++i) {
    even[i] = pairs[2 * i];
    odd[i] = pairs[2 * i + 1];
  }
#endif
}

LGRNET_INLINE void join_pairs(float *pairs, Lanes even, Lanes odd) {
  for (int i = 0; i < LANES; ++i) {
    pairs[2 * i] = even[i];
    pairs[2 * i + 1] = odd[i];
  }
}

LGRNET_INLINE float largest(Lanes lanes) {
  float half[LANES];
  store(half, lanes);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) half[i] = half[i] > half[i + width] ? half[i] : half[i + width];
  return half[0];
}

// One head of one clip, with one query's samples at a time.
struct Head {
  static constexpr int BEFORE = 1, BORDER = 3;  // one line of zeros before, two behind

  const Problem &p;
  int64_t clip, head, width, padded;  // channels in a plane; samples rounded up to whole vectors
  std::vector<int64_t> first, stride;  // of each level: its place in the planes, and pixels of a row there
  std::vector<float> plane;
  // Of the samples of one query:
  std::vector<float> pairs, level_width, level_height, x_reach, y_reach;
  std::vector<float> a, fx, fy, top_left, top_right, low_left, low_right;
  std::vector<int32_t> at, row;  // of the upper left corner and from there to the lower one, in floats
  std::vector<int32_t> level_first, level_row;

  Head(const Problem &problem, int64_t clip_, int64_t head_) : p(problem), clip(clip_), head(head_) {
    width = (p.channels + LANES - 1) / LANES * LANES;
    if (p.channels == 8) width = 8;
    padded = (p.samples() + LANES - 1) / LANES * LANES;
    int64_t pixels = 0;
    for (int64_t level = 0; level < p.levels; ++level) {
      first.push_back(pixels);
      stride.push_back(p.shapes[2 * level + 1] + BORDER);
      pixels += (p.shapes[2 * level] + BORDER) * stride.back();
    }
    plane.assign(pixels * width + LANES, 0.0f);
    pairs.assign(2 * padded, 0.0f);
    for (auto *numbers : {&level_width, &level_height, &x_reach, &y_reach, &a, &fx, &fy, &top_left, &top_right,
                          &low_left, &low_right})
      numbers->assign(padded, 0.0f);
    for (auto *numbers : {&at, &row, &level_first, &level_row}) numbers->assign(padded, 0);
    for (int64_t s = 0; s < p.samples(); ++s) {
      const int64_t level = s / p.points;
      level_height[s] = p.shapes[2 * level];
      level_width[s] = p.shapes[2 * level + 1];
      level_row[s] = stride[level] * width;
      level_first[s] = (first[level] + BEFORE * stride[level] + BEFORE) * width;
    }
  }

  // Calls work(number of a token, its place in the planes) for all tokens.
  template <class Work>
  void each_token(Work work) const {
    int64_t token = 0;
    for (int64_t level = 0; level < p.levels; ++level)
      for (int64_t y = 0; y < p.shapes[2 * level]; ++y)
        for (int64_t x = 0; x < p.shapes[2 * level + 1]; ++x)
          work(token++, (first[level] + (y + BEFORE) * stride[level] + x + BEFORE) * width);
  }

  const float *token(const float *tokens, int64_t number) const {
    return tokens + ((clip * p.tokens + number) * p.heads + head) * p.channels;
  }

  void fill_plane() {
    each_token([&](int64_t number, int64_t place) {
      std::copy_n(token(p.value, number), p.channels, &plane[place]);
    });
  }

  int64_t query_row(int64_t query) const { return (clip * p.queries + query) * p.heads + head; }

  // Softmax of the logits into `a`.
  void weigh(int64_t query) {
    const float *logits = p.logits + query_row(query) * p.samples();
    std::copy_n(logits, p.samples(), a.data());
    std::fill(a.begin() + p.samples(), a.end(), -INFINITY);
    Lanes most = load(&a[0]), total{};
    for (int64_t s = LANES; s < padded; s += LANES) {
      const Lanes next = load(&a[s]);
      most = next > most ? next : most;
    }
    const Lanes peak = all(largest(most));
    for (int64_t s = 0; s < padded; s += LANES) {
      const Lanes e = exp(load(&a[s]) - peak);
      store(&a[s], e);
    }
    std::fill(a.begin() + p.samples(), a.end(), 0.0f);
    for (int64_t s = 0; s < padded; s += LANES) total += load(&a[s]);
    const Lanes scale = all(1.0f / sum(total));
    for (int64_t s = 0; s < padded; s += LANES) store(&a[s], load(&a[s]) * scale);
  }

  // Where the samples of a query are, and the weights of their corners.
  void locate(int64_t query) {
    std::copy_n(p.offsets + query_row(query) * p.samples() * 2, p.samples() * 2, pairs.data());
    const float *reference = p.reference + ((p.reference_clips == 1 ? 0 : clip) * p.queries + query) * p.levels * 2;
    for (int64_t s = 0, level = 0; level < p.levels; ++level)
      for (int64_t point = 0; point < p.points; ++point, ++s) {
        x_reach[s] = reference[2 * level];
        y_reach[s] = reference[2 * level + 1];
      }
    for (int64_t s = 0; s < padded; s += LANES) {
      Lanes x, y;
      split_pairs(&pairs[2 * s], x, y);
      const Lanes w = load(&level_width[s]), h = load(&level_height[s]), half = all(0.5f), one = all(1.0f);
      x += load(&x_reach[s]) * w - half;
      y += load(&y_reach[s]) * h - half;
      IntLanes column, line;
      const Lanes right = split_place(x, w, column), below = split_place(y, h, line);
      const Lanes left = one - right, above = one - below, share = load(&a[s]);
      store(&fx[s], right);
      store(&fy[s], below);
      store(&top_left[s], share * above * left);
      store(&top_right[s], share * above * right);
      store(&low_left[s], share * below * left);
      store(&low_right[s], share * below * right);
      IntLanes base, line_length;
      std::memcpy(&base, &level_first[s], sizeof(base));
      std::memcpy(&line_length, &level_row[s], sizeof(line_length));
      base += line * line_length + column * static_cast<int32_t>(width);
      std::memcpy(&at[s], &base, sizeof(base));
    }
  }

  // The whole part of a place, clamped to -1 .. size; returns the rest, NaN for NaN.
  LGRNET_INLINE Lanes split_place(Lanes place, Lanes size, IntLanes &whole) {
    Lanes inside = place > all(-1.0f) ? place : all(-1.0f);
    inside = inside < size ? inside : size;
    whole = __builtin_convertvector(inside + all(1.0f), IntLanes) - 1;  // not negative before: cut off is rounded down
    const Lanes rest = inside - __builtin_convertvector(whole, Lanes);
    return place == place ? rest : place;
  }
};

#if defined(__AVX512F__)
// 8 floats of `left` and 8 of `right`.
LGRNET_INLINE __m512 two(const float &left, const float &right) {
  return _mm512_mask_broadcastss_ps(_mm512_set1_ps(left), 0xFF00, _mm_load_ss(&right));
}

LGRNET_INLINE __m512 twice(const float *eight) {
  const __m256 half = _mm256_loadu_ps(eight);
  return _mm512_insertf32x8(_mm512_castps256_ps512(half), half, 1);
}
#endif

void read_samples(const Head &h, float *out) {
  const Problem &p = h.p;
  const float *plane = h.plane.data();
#if defined(__AVX512F__)
  if (h.width == 8) {  // the two corners of a row are one vector
    __m512 upper = _mm512_setzero_ps(), lower = _mm512_setzero_ps();
    for (int64_t s = 0; s < p.samples(); ++s) {
      const float *corner = plane + h.at[s];
      upper = _mm512_fmadd_ps(two(h.top_left[s], h.top_right[s]), _mm512_loadu_ps(corner), upper);
      lower = _mm512_fmadd_ps(two(h.low_left[s], h.low_right[s]), _mm512_loadu_ps(corner + h.level_row[s]), lower);
    }
    const __m512 both = _mm512_add_ps(upper, lower);
    _mm256_storeu_ps(out, _mm256_add_ps(_mm512_castps512_ps256(both), _mm512_extractf32x8_ps(both, 1)));
    return;
  }
#endif
  for (int64_t c = 0; c < p.channels; c += LANES) {
    Lanes total{};
    for (int64_t s = 0; s < p.samples(); ++s) {
      const float *corner = plane + h.at[s] + c, *below = corner + h.level_row[s];
      total += load(corner) * all(h.top_left[s]) + load(corner + h.width) * all(h.top_right[s]);
      total += load(below) * all(h.low_left[s]) + load(below + h.width) * all(h.low_right[s]);
    }
    store_part(out + c, total, static_cast<int>(std::min<int64_t>(LANES, p.channels - c)));
  }
}

struct Gradients {
  const float *dout;
  float *dvalue, *doffsets, *dlogits;
};

// The way back of one head of one clip.
struct Back : Head {
  const Gradients &grad;
  std::vector<float> dplane, top_left_dot, top_right_dot, low_left_dot, low_right_dot, da, dpairs, dout;

  Back(const Problem &problem, const Gradients &gradients, int64_t clip_, int64_t head_)
      : Head(problem, clip_, head_), grad(gradients) {
    dplane.assign(plane.size(), 0.0f);
    for (auto *numbers : {&top_left_dot, &top_right_dot, &low_left_dot, &low_right_dot, &da})
      numbers->assign(padded, 0.0f);
    dpairs.assign(2 * padded, 0.0f);
    dout.assign(width + LANES, 0.0f);
  }

  void run() {
    fill_plane();
    for (int64_t query = 0; query < p.queries; ++query) {
      weigh(query);
      locate(query);
      std::copy_n(grad.dout + query_row(query) * p.channels, p.channels, dout.data());
      through_corners();
      through_places(query);
    }
    each_token([&](int64_t number, int64_t place) {
      std::copy_n(&dplane[place], p.channels, const_cast<float *>(token(grad.dvalue, number)));
    });
  }

  // Adds to the gradient of the planes, and multiplies each corner with the gradient of the output.
  void through_corners() {
    int64_t s = 0;
#if defined(__AVX512F__)
    if (width == 8)
      for (; s + 4 <= p.samples(); s += 4) four_samples(s);
#endif
    for (; s < p.samples(); ++s) one_sample(s);
  }

  void one_sample(int64_t s) {
    const int64_t upper = at[s], lower = upper + level_row[s];
    const int64_t corners[4] = {upper, upper + width, lower, lower + width};
    const float weights[4] = {top_left[s], top_right[s], low_left[s], low_right[s]};
    float *dots[4] = {&top_left_dot[s], &top_right_dot[s], &low_left_dot[s], &low_right_dot[s]};
    for (int k = 0; k < 4; ++k) {
      float dot = 0.0f;
      for (int64_t c = 0; c < p.channels; c += LANES) {
        const int count = static_cast<int>(std::min<int64_t>(LANES, p.channels - c));
        const Lanes g = load_part(&dout[c], count);
        dot += sum(load_part(&plane[corners[k] + c], count) * g);
        float *place = &dplane[corners[k] + c];
        store_part(place, load_part(place, count) + g * all(weights[k]), count);
      }
      *dots[k] = dot;
    }
  }

#if defined(__AVX512F__)
  void four_samples(int64_t s) {
    const __m512 g = twice(dout.data());
    __m512 products[8];
    for (int k = 0; k < 4; ++k) {
      const int64_t upper = at[s + k], lower = upper + level_row[s + k];
      products[k] = _mm512_mul_ps(_mm512_loadu_ps(&plane[upper]), g);
      products[4 + k] = _mm512_mul_ps(_mm512_loadu_ps(&plane[lower]), g);
      add_to(&dplane[upper], _mm512_mul_ps(two(top_left[s + k], top_right[s + k]), g));
      add_to(&dplane[lower], _mm512_mul_ps(two(low_left[s + k], low_right[s + k]), g));
    }
    // Sums of the 16 halves by halving: two neighbours, two pairs, two quarters.
    __m512 pairs_[4], quads[2];
    for (int k = 0; k < 4; ++k)
      pairs_[k] = _mm512_add_ps(_mm512_unpacklo_ps(products[2 * k], products[2 * k + 1]),
                                _mm512_unpackhi_ps(products[2 * k], products[2 * k + 1]));
    for (int k = 0; k < 2; ++k) {
      const __m512d one = _mm512_castps_pd(pairs_[2 * k]), other = _mm512_castps_pd(pairs_[2 * k + 1]);
      quads[k] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(one, other)),
                               _mm512_castpd_ps(_mm512_unpackhi_pd(one, other)));
    }
    const __m512 sums = _mm512_add_ps(_mm512_shuffle_f32x4(quads[0], quads[1], 0x88),
                                      _mm512_shuffle_f32x4(quads[0], quads[1], 0xDD));
    _mm_storeu_ps(&top_left_dot[s], _mm512_extractf32x4_ps(sums, 0));
    _mm_storeu_ps(&top_right_dot[s], _mm512_extractf32x4_ps(sums, 1));
    _mm_storeu_ps(&low_left_dot[s], _mm512_extractf32x4_ps(sums, 2));
    _mm_storeu_ps(&low_right_dot[s], _mm512_extractf32x4_ps(sums, 3));
  }

  LGRNET_INLINE void add_to(float *place, __m512 values) {
    _mm512_storeu_ps(place, _mm512_add_ps(_mm512_loadu_ps(place), values));
  }
#endif

  // From the products with the corners to the gradients of places and logits.
  void through_places(int64_t query) {
    Lanes weighted{};
    for (int64_t s = 0; s < padded; s += LANES) {
      const Lanes right = load(&fx[s]), below = load(&fy[s]), left = all(1.0f) - right, above = all(1.0f) - below;
      const Lanes tl = load(&top_left_dot[s]), tr = load(&top_right_dot[s]);
      const Lanes ll = load(&low_left_dot[s]), lr = load(&low_right_dot[s]);
      const Lanes share = load(&a[s]), one = all(1.0f);
      const Lanes through = above * (left * tl + right * tr) + below * (left * ll + right * lr);
      store(&da[s], through);
      weighted += through * share;
      Lanes x, y;
      split_pairs(&pairs[2 * s], x, y);
      const Lanes w = load(&level_width[s]), h = load(&level_height[s]);
      x += load(&x_reach[s]) * w - all(0.5f);
      y += load(&y_reach[s]) * h - all(0.5f);
      // A place outside stays outside when it moves a little.
      const Lanes dx = (x > -one) & (x < w) ? share * (above * (tr - tl) + below * (lr - ll)) : all(0.0f);
      const Lanes dy = (y > -one) & (y < h) ? share * (left * (ll - tl) + right * (lr - tr)) : all(0.0f);
      join_pairs(&dpairs[2 * s], dx, dy);
    }
    const Lanes mean = all(sum(weighted));
    for (int64_t s = 0; s < padded; s += LANES) store(&da[s], (load(&da[s]) - mean) * load(&a[s]));
    std::copy_n(da.data(), p.samples(), grad.dlogits + query_row(query) * p.samples());
    std::copy_n(dpairs.data(), 2 * p.samples(), grad.doffsets + query_row(query) * p.samples() * 2);
  }
};

}  // namespace

extern "C" {

// out [B, Q, heads, d]; shapes int32 [levels, 2] (height, width); reference_clips is B or 1. At least one sample.
void lgrnet_deform_forward(const float *value, const float *offsets, const float *logits, const float *reference,
                           const int32_t *shapes, float *out, int64_t clips, int64_t tokens, int64_t queries,
                           int64_t heads, int64_t channels, int64_t levels, int64_t points, int64_t reference_clips,
                           int threads) {
  const Problem p{value, offsets, logits,   reference, shapes, clips,          tokens,
                  queries, heads, channels, levels,    points, reference_clips};
  parallel_for(clips * heads, threads, [&](int64_t task) {
    Head head(p, task / heads, task % heads);
    head.fill_plane();
    for (int64_t query = 0; query < queries; ++query) {
      head.weigh(query);
      head.locate(query);
      read_samples(head, out + head.query_row(query) * channels);
    }
  });
}

// Gradients of value, offsets and logits; all are written, none is added to.
void lgrnet_deform_backward(const float *value, const float *offsets, const float *logits, const float *reference,
                            const int32_t *shapes, const float *dout, float *dvalue, float *doffsets, float *dlogits,
                            int64_t clips, int64_t tokens, int64_t queries, int64_t heads, int64_t channels,
                            int64_t levels, int64_t points, int64_t reference_clips, int threads) {
  const Problem p{value, offsets, logits,   reference, shapes, clips,          tokens,
                  queries, heads, channels, levels,    points, reference_clips};
  const Gradients gradients{dout, dvalue, doffsets, dlogits};
  parallel_for(clips * heads, threads, [&](int64_t task) { Back(p, gradients, task / heads, task % heads).run(); });
}
}
