// Multi-scale deformable attention, forward and backward, in float32.
//
// A thread owns a few heads of one clip. It copies their maps into planes of their own with a border of zeros: then a
// sample reads its four corners without a question, and those of a row lie side by side. Places are clamped to the
// border, where their weights are 0. Softmax and places are computed LANES samples at a time. The heads are few enough
// that their planes stay in the nearer caches, and enough that a query's numbers are read in a row.
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
LGRNET_INLINE void split_pairs(Lanes low, Lanes high, Lanes &even, Lanes &odd) {
#if defined(__GNUC__) && !defined(__clang__)
  IntLanes first{};
  for (int i = 0; i < LANES; ++i) first[i] = 2 * i;
  even = __builtin_shuffle(low, high, first);
  odd = __builtin_shuffle(low, high, first + 1);
#else
  for (int i = 0; i < LANES; ++i) {
    even[i] = 2 * i < LANES ? low[2 * i] : high[2 * i - LANES];
    odd[i] = 2 * i < LANES ? low[2 * i + 1] : high[2 * i + 1 - LANES];
  }
#endif
}

LGRNET_INLINE void join_pairs(float *pairs, Lanes even, Lanes odd) {
  for (int i = 0; i < LANES; ++i) {
    pairs[2 * i] = even[i];
    pairs[2 * i + 1] = odd[i];
  }
}

constexpr int64_t HEADS = 4;  // of a thread at a time

// The reference point of every sample of every query in pixels of its level, for all heads: [clips, Q, x or y, padded].
struct References {
  int64_t padded;  // samples, rounded up to whole vectors
  std::vector<float> places;

  explicit References(const Problem &p) : padded((p.samples() + LANES - 1) / LANES * LANES) {
    places.assign(p.reference_clips * p.queries * 2 * padded, 0.0f);
    for (int64_t row = 0; row < p.reference_clips * p.queries; ++row)
      for (int64_t axis = 0; axis < 2; ++axis)
        for (int64_t s = 0; s < p.samples(); ++s) {
          const int64_t level = s / p.points;
          const float side = static_cast<float>(p.shapes[2 * level + 1 - axis]);
          places[(row * 2 + axis) * padded + s] = p.reference[(row * p.levels + level) * 2 + axis] * side - 0.5f;
        }
  }
};

// A few heads of one clip, with the samples of one head and query at a time.
struct Heads {
  static constexpr int BEFORE = 1, BORDER = 3;  // one line of zeros before, two behind

  const Problem &p;
  const References &references;
  int64_t clip, first_head, heads;
  int64_t width;           // channels in a plane
  int64_t samples, padded; // of a query and head; rounded up to whole vectors
  int64_t plane_size;      // of one head, in floats
  std::vector<int64_t> first, stride;  // of each level: its first pixel, and pixels of a row
  std::vector<float> planes;
  // Of the samples, padded:
  std::vector<float> level_width, level_height, a, fx, fy, top_left, top_right, low_left, low_right;
  std::vector<int32_t> at;                      // of the upper left corner
  std::vector<int32_t> level_first, level_row;  // the level's first pixel, and from one row to the next; in floats

  Heads(const Problem &problem, const References &references_, int64_t task)
      : p(problem), references(references_), samples(problem.samples()), padded(references_.padded) {
    const int64_t groups = (p.heads + HEADS - 1) / HEADS;
    clip = task / groups;
    first_head = task % groups * HEADS;
    heads = std::min(HEADS, p.heads - first_head);
    width = p.channels == 8 ? 8 : (p.channels + LANES - 1) / LANES * LANES;
    int64_t pixels = 0;
    for (int64_t level = 0; level < p.levels; ++level) {
      first.push_back(pixels);
      stride.push_back(p.shapes[2 * level + 1] + BORDER);
      pixels += (p.shapes[2 * level] + BORDER) * stride.back();
    }
    plane_size = pixels * width;
    planes.assign(heads * plane_size + LANES, 0.0f);
    for (auto *numbers :
         {&level_width, &level_height, &a, &fx, &fy, &top_left, &top_right, &low_left, &low_right})
      numbers->assign(padded, 0.0f);
    for (auto *numbers : {&at, &level_first, &level_row}) numbers->assign(padded, 0);
    for (int64_t s = 0; s < samples; ++s) {
      const int64_t level = s / p.points;
      level_height[s] = p.shapes[2 * level];
      level_width[s] = p.shapes[2 * level + 1];
      level_row[s] = stride[level] * width;
      level_first[s] = (first[level] + BEFORE * stride[level] + BEFORE) * width;
    }
  }

  // Calls work(number of a token, its place in the first plane) for all tokens.
  template <class Work>
  void each_token(Work work) const {
    int64_t token = 0;
    for (int64_t level = 0; level < p.levels; ++level)
      for (int64_t y = 0; y < p.shapes[2 * level]; ++y)
        for (int64_t x = 0; x < p.shapes[2 * level + 1]; ++x)
          work(token++, (first[level] + (y + BEFORE) * stride[level] + x + BEFORE) * width);
  }

  // Where the first of these heads stands in a row of [B, tokens or queries, heads, ...].
  int64_t token_row(int64_t token) const { return (clip * p.tokens + token) * p.heads + first_head; }
  int64_t query_row(int64_t query) const { return (clip * p.queries + query) * p.heads + first_head; }

  void fill_planes() {
    each_token([&](int64_t token, int64_t place) {
      const float *from = p.value + token_row(token) * p.channels;
      for (int64_t head = 0; head < heads; ++head)
        copy_channels(from + head * p.channels, &planes[head * plane_size + place]);
    });
  }

  LGRNET_INLINE void copy(const float *from, float *to, int64_t channels) {
    if (channels == 8)
      std::memcpy(to, from, 8 * sizeof(float));
    else
      std::memcpy(to, from, channels * sizeof(float));
  }
  void copy_channels(const float *from, float *to) const { copy(from, to, p.channels); }

  const float *reference(int64_t query) const {
    return &references.places[((p.reference_clips == 1 ? 0 : clip) * p.queries + query) * 2 * padded];
  }

  int part(int64_t s) const { return static_cast<int>(std::min<int64_t>(LANES, samples - s)); }

  // Softmax of a head's logits into `a`.
  void weigh(const float *logits) {
    Lanes most = all(logits[0]);
    for (int64_t s = 0; s < padded; s += LANES) {
      const Lanes next = load_part_or(logits + s, part(s), most);
      most = next > most ? next : most;
    }
    const Lanes peak = all(largest(most));
    Lanes total{};
    for (int64_t s = 0; s < padded; s += LANES) {
      const Lanes e = exp(load_part_or(logits + s, part(s), all(-INFINITY)) - peak);
      store(&a[s], e);
      total += e;
    }
    const Lanes factor = all(1.0f / sum(total));
    for (int64_t s = 0; s < padded; s += LANES) store(&a[s], load(&a[s]) * factor);
  }

  // Where a head's samples are, and the weights of their corners.
  void locate(const float *offsets, const float *center) {
    for (int64_t s = 0; s < padded; s += LANES) {
      Lanes x, y;
      place(offsets, center, s, x, y);
      const Lanes w = load(&level_width[s]), h = load(&level_height[s]), one = all(1.0f);
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

  LGRNET_INLINE void place(const float *offsets, const float *center, int64_t s, int64_t padded, int part, Lanes &x,
                           Lanes &y) {
    const int low = std::min(2 * part, LANES), high = 2 * part - low;
    split_pairs(load_part(offsets + 2 * s, low), load_part(offsets + 2 * s + (high ? LANES : 0), high), x, y);
    x += load(center + s);
    y += load(center + padded + s);
  }
  void place(const float *offsets, const float *center, int64_t s, Lanes &x, Lanes &y) const {
    place(offsets, center, s, padded, part(s), x, y);
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

// The output of a head and query.
void read_samples(const Heads &h, const float *planes, float *out) {
  const int32_t *at = h.at.data(), *row = h.level_row.data();
  const float *tl = h.top_left.data(), *tr = h.top_right.data(), *ll = h.low_left.data(), *lr = h.low_right.data();
#if defined(__AVX512F__)
  if (h.width == 8) {  // the two corners of a row are one vector
    __m512 upper = _mm512_setzero_ps(), lower = _mm512_setzero_ps();
    for (int64_t s = 0, end = h.samples; s < end; ++s) {
      const float *corner = planes + at[s];
      upper = _mm512_fmadd_ps(two(tl[s], tr[s]), _mm512_loadu_ps(corner), upper);
      lower = _mm512_fmadd_ps(two(ll[s], lr[s]), _mm512_loadu_ps(corner + row[s]), lower);
    }
    const __m512 both = _mm512_add_ps(upper, lower);
    _mm256_storeu_ps(out, _mm256_add_ps(_mm512_castps512_ps256(both), _mm512_extractf32x8_ps(both, 1)));
    return;
  }
#endif
  for (int64_t c = 0; c < h.p.channels; c += LANES) {
    Lanes total{};
    for (int64_t s = 0, end = h.samples; s < end; ++s) {
      const float *corner = planes + at[s] + c, *below = corner + row[s];
      total += load(corner) * all(tl[s]) + load(corner + h.width) * all(tr[s]);
      total += load(below) * all(ll[s]) + load(below + h.width) * all(lr[s]);
    }
    store_part(out + c, total, static_cast<int>(std::min<int64_t>(LANES, h.p.channels - c)));
  }
}

struct Gradients {
  const float *dout;
  float *dvalue, *doffsets, *dlogits;
};

// The way back of a few heads of one clip.
struct Back : Heads {
  const Gradients &grad;
  std::vector<float> dplanes, top_left_dot, top_right_dot, low_left_dot, low_right_dot, da, dpairs;

  Back(const Problem &problem, const References &references_, const Gradients &gradients, int64_t task)
      : Heads(problem, references_, task), grad(gradients) {
    dplanes.assign(planes.size(), 0.0f);
    for (auto *numbers : {&top_left_dot, &top_right_dot, &low_left_dot, &low_right_dot, &da})
      numbers->assign(padded, 0.0f);
    dpairs.assign(2 * padded, 0.0f);
  }

  void run() {
    fill_planes();
    for (int64_t query = 0; query < p.queries; ++query)
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t row = query_row(query) + head;
        const float *offsets = p.offsets + row * samples * 2, *center = reference(query);
        weigh(p.logits + row * samples);
        locate(offsets, center);
        through_corners(&planes[head * plane_size], &dplanes[head * plane_size], grad.dout + row * p.channels);
        through_places(row, offsets, center);
      }
    each_token([&](int64_t token, int64_t place) {
      float *to = grad.dvalue + token_row(token) * p.channels;
      for (int64_t head = 0; head < heads; ++head)
        copy_channels(&dplanes[head * plane_size + place], to + head * p.channels);
    });
  }

  // Adds to the gradient of the planes, and multiplies each corner with the gradient of the output.
  void through_corners(const float *plane, float *dplane, const float *dout) {
    int64_t s = 0;
#if defined(__AVX512F__)
    if (width == 8)
      for (; s + 4 <= samples; s += 4) four_samples(s, plane, dplane, twice(dout));
#endif
    for (; s < samples; ++s) one_sample(s, plane, dplane, dout);
  }

  void one_sample(int64_t s, const float *plane, float *dplane, const float *dout) {
    const int64_t upper = at[s], lower = upper + level_row[s];
    const int64_t corners[4] = {upper, upper + width, lower, lower + width};
    const float weights[4] = {top_left[s], top_right[s], low_left[s], low_right[s]};
    float *dots[4] = {&top_left_dot[s], &top_right_dot[s], &low_left_dot[s], &low_right_dot[s]};
    for (int k = 0; k < 4; ++k) {
      float dot = 0.0f;
      for (int64_t c = 0; c < p.channels; c += LANES) {
        const int count = static_cast<int>(std::min<int64_t>(LANES, p.channels - c));
        const Lanes g = load_part(dout + c, count);
        dot += sum(load_part(plane + corners[k] + c, count) * g);
        float *place = dplane + corners[k] + c;
        store_part(place, load_part(place, count) + g * all(weights[k]), count);
      }
      *dots[k] = dot;
    }
  }

#if defined(__AVX512F__)
  void four_samples(int64_t s, const float *plane, float *dplane, __m512 g) {
    __m512 products[8];
    for (int k = 0; k < 4; ++k) {
      const int64_t upper = at[s + k], lower = upper + level_row[s + k];
      products[k] = _mm512_mul_ps(_mm512_loadu_ps(plane + upper), g);
      products[4 + k] = _mm512_mul_ps(_mm512_loadu_ps(plane + lower), g);
      add_to(dplane + upper, _mm512_mul_ps(two(top_left[s + k], top_right[s + k]), g));
      add_to(dplane + lower, _mm512_mul_ps(two(low_left[s + k], low_right[s + k]), g));
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
  void through_places(int64_t row, const float *offsets, const float *center) {
    Lanes weighted{};
    for (int64_t s = 0; s < padded; s += LANES) {
      const Lanes right = load(&fx[s]), below = load(&fy[s]), left = all(1.0f) - right, above = all(1.0f) - below;
      const Lanes tl = load(&top_left_dot[s]), tr = load(&top_right_dot[s]);
      const Lanes ll = load(&low_left_dot[s]), lr = load(&low_right_dot[s]);
      const Lanes share = load(&a[s]), one = all(1.0f);
      const Lanes through = above * (left * tl + right * tr) + below * (left * ll + right * lr);
      store(&da[s], through);
      weighted += part(s) == LANES ? through * share : first_lanes(through * share, part(s));
      Lanes x, y;
      place(offsets, center, s, x, y);
      const Lanes w = load(&level_width[s]), h = load(&level_height[s]);
      // A place outside stays outside when it moves a little.
      const Lanes dx = (x > -one) & (x < w) ? share * (above * (tr - tl) + below * (lr - ll)) : all(0.0f);
      const Lanes dy = (y > -one) & (y < h) ? share * (left * (ll - tl) + right * (lr - tr)) : all(0.0f);
      join_pairs(&dpairs[2 * s], dx, dy);
    }
    const Lanes mean = all(sum(weighted));
    for (int64_t s = 0; s < padded; s += LANES)
      store_part(grad.dlogits + row * samples + s, (load(&da[s]) - mean) * load(&a[s]), part(s));
    std::memcpy(grad.doffsets + row * samples * 2, dpairs.data(), 2 * samples * sizeof(float));
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
  const References references(p);
  parallel_for(clips * ((heads + HEADS - 1) / HEADS), threads, [&](int64_t task) {
    Heads group(p, references, task);
    group.fill_planes();
    for (int64_t query = 0; query < queries; ++query)
      for (int64_t head = 0; head < group.heads; ++head) {
        const int64_t row = group.query_row(query) + head;
        group.weigh(logits + row * group.samples);
        group.locate(offsets + row * group.samples * 2, group.reference(query));
        read_samples(group, &group.planes[head * group.plane_size], out + row * channels);
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
  const References references(p);
  parallel_for(clips * ((heads + HEADS - 1) / HEADS), threads,
               [&](int64_t task) { Back(p, references, gradients, task).run(); });
}
}
