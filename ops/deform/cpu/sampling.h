// What the ways forward and back of deformable attention share: maps with a border of zeros, and the samples of LANES
// queries of one head with the queries in the lanes, so that the softmax over the samples of a query needs no sum
// across lanes.
//
// Letters as in ops/deform/__init__.py: B clips or frames, S tokens, Q queries, d channels of a head.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/transpose.h"

namespace deform {

struct Problem {
  const float *value, *offsets, *logits, *reference;
  const int32_t *shapes;  // height and width of each level
  int64_t clips, tokens, queries, heads, channels, levels, points, reference_clips;

  int64_t samples() const { return levels * points; }
  int height(int64_t level) const { return shapes[2 * level]; }
  int width(int64_t level) const { return shapes[2 * level + 1]; }
};

// The reference points as places in the padded maps: [clips, levels, x or y, Q rounded up to whole vectors].
struct Centers {
  const Problem &p;
  int64_t padded;
  std::vector<float> places;

  explicit Centers(const Problem &problem) : p(problem), padded((p.queries + LANES - 1) / LANES * LANES) {
    places.assign(p.reference_clips * p.levels * 2 * padded, 0.0f);
    for (int64_t clip = 0; clip < p.reference_clips; ++clip)
      for (int64_t level = 0; level < p.levels; ++level)
        for (int64_t axis = 0; axis < 2; ++axis) {
          const float side = static_cast<float>(axis ? p.height(level) : p.width(level));
          const float *from = p.reference + (clip * p.queries * p.levels + level) * 2 + axis;
          float *to = places.data() + ((clip * p.levels + level) * 2 + axis) * padded;
          // Half a pixel back to the first pixel's centre, and one pixel on across the border.
          for (int64_t q = 0; q < p.queries; ++q) to[q] = from[q * p.levels * 2] * side + 0.5f;
        }
  }

  const float *of(int64_t clip, int64_t level) const {
    return places.data() + ((p.reference_clips == 1 ? 0 : clip) * p.levels + level) * 2 * padded;
  }
};

// The maps of a few heads of one clip, each with one line of zeros before and two behind: a sample reads its four
// corners without a question, and those of a row lie side by side.
struct Planes {
  static constexpr int BEFORE = 1, BORDER = 3;

  const Problem &p;
  int64_t clip, first_head, heads;
  int64_t width;               // floats of a pixel
  int64_t size;                // of one head's maps, in floats
  std::vector<int32_t> first, row;  // of each level: its first float, and from one row to the next
  std::vector<Lanes> floats;

  // Group `task` of `most` heads.
  Planes(const Problem &problem, int64_t task, int64_t most) : p(problem) {
    const int64_t groups = (p.heads + most - 1) / most;
    clip = task / groups;
    first_head = task % groups * most;
    heads = std::min(most, p.heads - first_head);
    width = p.channels == 8 ? 8 : (p.channels + LANES - 1) / LANES * LANES;
    size = 0;
    for (int64_t level = 0; level < p.levels; ++level) {
      first.push_back(static_cast<int32_t>(size));
      row.push_back(static_cast<int32_t>((p.width(level) + BORDER) * width));
      size += (p.height(level) + BORDER) * row.back();
    }
    size = (size + LANES - 1) / LANES * LANES;
    floats.assign(heads * size / LANES + 1, Lanes{});
  }

  float *of(int64_t head) { return reinterpret_cast<float *>(floats.data()) + head * size; }

  // Copies `tokens` [B, S, heads, d] here, or back.
  void fill(const float *tokens) {
    p.channels == 8 ? copy<8, false>(tokens) : copy<0, false>(tokens);
  }
  void empty(float *tokens) {
    p.channels == 8 ? copy<8, true>(tokens) : copy<0, true>(tokens);
  }

 private:
  // D channels where the compiler knows them, else 0.
  template <int D, bool BACK>
  void copy(std::conditional_t<BACK, float, const float> *tokens) {
    const int64_t channels = D ? D : p.channels;
    auto *token = tokens + (clip * p.tokens * p.heads + first_head) * channels;
    for (int64_t level = 0; level < p.levels; ++level)
      for (int64_t y = 0; y < p.height(level); ++y) {
        float *pixel = of(0) + first[level] + (y + BEFORE) * row[level] + BEFORE * width;
        for (int64_t x = 0; x < p.width(level); ++x, token += p.heads * channels, pixel += width)
          for (int64_t head = 0; head < heads; ++head) {
            auto *outside = token + head * channels;
            float *inside = pixel + head * size;
            if constexpr (BACK)
              std::memcpy(outside, inside, channels * sizeof(float));
            else
              std::memcpy(inside, outside, channels * sizeof(float));
          }
      }
  }
};

// One sample of each of LANES queries.
struct Sample {
  Lanes top_left, top_right, low_left, low_right;  // weights of the corners
  IntLanes at;                                     // the upper left corner in the planes
};

// What the way back needs besides: the place between the corners, and the share of the softmax, altogether and where a
// step changes something.
struct Slope {
  Lanes right, below, share, share_x, share_y;
};

// The floor of a place in a padded map. What is outside goes to last = size + 1, where it meets only zeros: before the map
// a pixel would be its neighbour, which may be infinite. NaN stays.
LGRNET_INLINE IntLanes whole_part(Lanes &place, Lanes last) {
  place = place < all(0.0f) ? last : at_most(place, last);
  const IntLanes whole = __builtin_convertvector(place, IntLanes);
  return whole > 0 ? whole : IntLanes{};  // NaN gives any number
}

// The samples of LANES queries of one head.
struct Samples {
  const Problem &p;
  const Planes &planes;
  const Centers &centers;
  const int64_t count;
  std::vector<Sample> samples;
  std::vector<Slope> slopes;
  std::vector<Lanes> columns, shares;
  std::vector<float> last_rows;  // of the queries at the end, where fewer than LANES are left

  Samples(const Problem &problem, const Planes &planes_, const Centers &centers_, bool back)
      : p(problem), planes(planes_), centers(centers_), count(p.samples()), samples(count), slopes(back ? count : 0),
        columns(2 * count), shares(count), last_rows(2 * count * LANES) {}

  int rows(int64_t query) const { return static_cast<int>(std::min<int64_t>(LANES, p.queries - query)); }

  // The row of a query and one of these heads in [B, Q, heads].
  int64_t row(int64_t query, int64_t head) const {
    return (planes.clip * p.queries + query) * p.heads + planes.first_head + head;
  }

  // Where the samples are, and their weights.
  void find(int64_t query, int64_t head) {
    load_columns(p.logits, query, head, count);
    const Lanes factor = softmax();
    load_columns(p.offsets, query, head, 2 * count);
    for (int64_t level = 0; level < p.levels; ++level)
      slopes.empty() ? locate<false>(query, level, factor) : locate<true>(query, level, factor);
  }

  // Asks for what `find` needs of a later query, of all of these heads. A head's rows lie so far apart that the processor
  // does not see by itself what comes next.
  // Always inline: the compiler drops calls of functions that only prefetch.
  inline __attribute__((always_inline)) void expect(int64_t query) const {
    expect<false>(p.logits, count, query);
    expect<false>(p.offsets, 2 * count, query);
  }

  // The same of any rows [B, Q, heads, length], to be read or to be written: as far as the second cache.
  template <bool WRITTEN>
  inline __attribute__((always_inline)) void expect(const float *numbers, int64_t length, int64_t query) const {
    if (query >= p.queries) return;
    const float *first = numbers + row(query, 0) * length;
    for (int64_t i = 0; i < planes.heads * length; i += CACHE_LINE) __builtin_prefetch(first + i, WRITTEN, 2);
  }

  // How many queries to expect with LANES queries of one head, so that as many are asked for as are worked on.
  int64_t ahead() const { return (LANES + planes.heads - 1) / planes.heads; }

 private:
  // Columns of [B, Q, heads, length].
  void load_columns(const float *numbers, int64_t query, int64_t head, int64_t length) {
    const float *first = numbers + row(query, head) * length;
    int64_t stride = p.heads * length;
    if (rows(query) < LANES) {
      std::fill(last_rows.begin(), last_rows.end(), 0.0f);
      for (int r = 0; r < rows(query); ++r) std::copy_n(first + r * stride, length, &last_rows[r * length]);
      first = last_rows.data();
      stride = length;
    }
    gather_columns(first, stride, length, columns.data());
  }

  // Of the columns: leaves the exponentials in `shares`. Returns what makes them sum to 1.
  Lanes softmax() {
    Lanes peak = columns[0], total{};
    for (int64_t s = 1; s < count; ++s) peak = at_least(peak, columns[s]);
    int64_t s = 0;
    for (; s + 4 <= count; s += 4) weigh<4>(s, peak, total);
    for (; s < count; ++s) weigh<1>(s, peak, total);
    return all(1.0f) / total;
  }

  template <int N>
  inline __attribute__((always_inline)) void weigh(int64_t s, Lanes peak, Lanes &total) {
    const auto e = exp2_below_128(each<N>([&](int k) { return (columns[s + k] - peak) * all(LOG2_E); }));
    for (int k = 0; k < N; ++k) {
      shares[s + k] = e[k];
      total += e[k];
    }
  }

  // What all samples of a level share is read once: the compiler cannot know that they do not overwrite it.
  template <bool BACK>
  void locate(int64_t query, int64_t level, Lanes factor) {
    const float *center = centers.of(planes.clip, level) + query;
    const Lanes x = load(center), y = load(center + centers.padded), none{};
    const Lanes wide = all(p.width(level) + 1.0f), high = all(p.height(level) + 1.0f);
    const IntLanes first = IntLanes{} + planes.first[level], row = IntLanes{} + planes.row[level];
    const int32_t pixel = static_cast<int32_t>(planes.width);
    const Lanes *step = &columns[2 * level * p.points];
    Sample *sample = &samples[level * p.points];
    const Lanes *weight = &shares[level * p.points];
    Slope *slope = slopes.data() + (BACK ? level * p.points : 0);
    for (const Sample *end = sample + p.points; sample < end; ++sample, ++weight, ++slope, step += 2) {
      const Lanes far_x = x + step[0], far_y = y + step[1], share = *weight * factor;
      Lanes near_x = far_x, near_y = far_y;
      const IntLanes column = whole_part(near_x, wide), line = whole_part(near_y, high);
      const Lanes right = near_x - __builtin_convertvector(column, Lanes);
      const Lanes below = near_y - __builtin_convertvector(line, Lanes);
      const Lanes lower = share * below, upper = share - lower;
      sample->top_right = upper * right;
      sample->top_left = upper - sample->top_right;
      sample->low_right = lower * right;
      sample->low_left = lower - sample->low_right;
      sample->at = line * row + column * pixel + first;
      // A place outside stays outside when it moves a little.
      if (BACK)
        *slope = {right, below, share, ((far_x >= none) & (far_x < wide)) ? share : none,
                  ((far_y >= none) & (far_y < high)) ? share : none};
    }
  }
};

}  // namespace deform
