// How the maps of a level lie in memory while neighborhood.cpp works on them, and which keys are whose.
//
// A row of a map is [x][head][channel] in memory. Where the heads of a token are whole vectors, each token is
// transposed for itself, to [head / LANES][channel][LANES], and the keys of a block are blocks, one for each place of
// the window.
//
// Else the whole row is: in a plane of (x, head) for each channel the keys of LANES neighbouring (x, head) for one
// place of the window are one load, since all heads have the same windows. They are not where windows are shifted, near
// the left and right border: the keys of the blocks there are copied once per row to behind the plane.
//
// Either way there are as many rows as a window spans.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/transpose.h"

namespace neighborhood {

// [B, T, S, heads, d] with any distance between clips, frames and tokens.
struct Input {
  const float *data;
  int64_t clip, frame, token;
};

struct Problem {
  Input q, k, v, dout;
  int64_t clips, frames, tokens, heads, channels, window, dilation, shift;
  float *out, *dq, *dk, *dv;

  int64_t reach() const { return window / 2 * dilation; }
  int64_t span() const { return window * dilation; }
  bool one_token() const { return heads % LANES == 0; }
  int64_t past(int64_t frame) const { return (frame + frames - shift) % frames; }
  int64_t place(int64_t clip, int64_t frame, int64_t token) const {
    return ((clip * frames + frame) * tokens + token) * heads * channels;
  }
};

// The first key of query i along an axis of length >= window * dilation: window_starts of reference.py.
inline int64_t window_start(int64_t i, int64_t length, const Problem &p) {
  const int64_t group = i % p.dilation, members = (length - group + p.dilation - 1) / p.dilation;
  return group + std::min(std::max<int64_t>(i / p.dilation - p.window / 2, 0), members - p.window) * p.dilation;
}

inline constexpr int64_t whole(int64_t floats) { return (floats + LANES - 1) / LANES * LANES; }

// LANES neighbouring (x, head) of a row of queries, from `begin` on. In floats of a row of keys: key i of their windows
// is at first + i * step.
struct Block {
  int64_t begin, count, first, step, x, head;  // the x and the head of the first one
  bool inner;  // no window is shifted; always so called where vectors are of one token
};

// `count` neighbouring keys, which are also behind the plane.
struct Copy {
  int32_t from, to, count;
};

// What all frames share of a level: where windows are, and how a row of keys lies in memory.
struct Level {
  int64_t height, width, first_token, rows, columns, lanes;
  int64_t plane;          // floats of a row's plane, or of all its vectors of one channel
  int64_t unit, channel;  // floats between two (x, head) where vectors begin there, and between two channels
  int64_t inner_begin = 0, inner_end = 0;  // (x, head) of the inner blocks
  std::vector<int64_t> row_starts;
  std::vector<Block> blocks;
  std::vector<Copy> copies;  // in the order of `to`

  Level(const Problem &p, int64_t height_, int64_t width_, int64_t first)
      : height(height_), width(width_), first_token(first) {
    rows = std::max(height, p.span());
    columns = std::max(width, p.span());
    lanes = width * p.heads;
    for (int64_t y = 0; y < height; ++y) row_starts.push_back(window_start(y, rows, p));
    plane = whole(columns * p.heads);
    unit = p.one_token() ? p.channels : 1;
    if (!p.one_token()) plane += LANES;  // loads and stores of whole vectors may reach past the last key
    for (int64_t begin = 0; begin < lanes; begin += LANES) add_block(p, begin);
    if (!p.one_token()) plane += LANES;
    channel = p.one_token() ? LANES : plane;
  }

  void add_block(const Problem &p, int64_t begin) {
    const int64_t count = std::min<int64_t>(LANES, lanes - begin), step = p.dilation * p.heads;
    const int64_t first_x = begin / p.heads, first_head = begin % p.heads;
    std::vector<Copy> runs;  // of lanes whose keys are neighbours
    bool inner = count == LANES;
    for (int64_t lane = 0; lane < count; ++lane) {
      const int64_t x = (begin + lane) / p.heads, head = (begin + lane) % p.heads;
      const int64_t key = window_start(x, columns, p) * p.heads + head;
      inner = inner && key == begin + lane - p.reach() * p.heads;
      if (runs.empty() || runs.back().from + runs.back().count != key)
        runs.push_back({static_cast<int32_t>(key), static_cast<int32_t>(lane), 0});
      ++runs.back().count;
    }
    if (inner || p.one_token()) {
      if (inner_end == 0) inner_begin = begin;
      inner_end = begin + LANES;
      return blocks.push_back({begin, count, runs[0].from * unit, step * unit, first_x, first_head, true});
    }
    blocks.push_back({begin, count, plane, LANES, first_x, first_head, false});
    for (int64_t i = 0; i < p.window; ++i, plane += LANES)
      for (const Copy &run : runs)
        copies.push_back({static_cast<int32_t>(run.from + i * step), static_cast<int32_t>(run.to + plane), run.count});
  }
};

LGRNET_INLINE IntLanes lane_numbers() {
  IntLanes numbers;
  for (int lane = 0; lane < LANES; ++lane) numbers[lane] = lane;
  return numbers;
}

// Memory for floats that begins where a line of the caches does, and ends with one.
class Floats {
 public:
  explicit Floats(int64_t count) : memory((whole(count) + CACHE_LINE - 1) / CACHE_LINE, Line{}) {}
  float *data() { return reinterpret_cast<float *>(memory.data()); }

 private:
  struct alignas(CACHE_LINE * sizeof(float)) Line {
    float floats[CACHE_LINE];
  };
  std::vector<Line> memory;
};

#if defined(__AVX512F__)
typedef float Pair __attribute__((vector_size(16 * sizeof(float))));

LGRNET_INLINE Pair load_pair(const float *place) {
  Pair pair;
  std::memcpy(&pair, place, sizeof(pair));
  return pair;
}
LGRNET_INLINE void store_pair(float *place, Pair pair) { std::memcpy(place, &pair, sizeof(pair)); }

// Lanes of a and b by their numbers, which are constants; those of b go on after those of a.
#if defined(__clang__)
#define LGRNET_SHUFFLE_PAIRS(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t IntPair __attribute__((vector_size(16 * sizeof(int32_t))));
#define LGRNET_SHUFFLE_PAIRS(a, b, ...) __builtin_shuffle(a, b, IntPair{__VA_ARGS__})
#endif

// 8 rows of 8 floats to 8 columns, or back.
LGRNET_INLINE void transpose_eights(const float *from, float *to) {
  Pair a[4], b[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) a[i] = load_pair(from + 16 * i);
#pragma GCC unroll 2
  for (int i = 0; i < 4; i += 2) {  // four rows: their columns 0 to 3, and 4 to 7
    b[i] = LGRNET_SHUFFLE_PAIRS(a[i], a[i + 1], 0, 8, 16, 24, 1, 9, 17, 25, 2, 10, 18, 26, 3, 11, 19, 27);
    b[i + 1] = LGRNET_SHUFFLE_PAIRS(a[i], a[i + 1], 4, 12, 20, 28, 5, 13, 21, 29, 6, 14, 22, 30, 7, 15, 23, 31);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    store_pair(to + 32 * i, LGRNET_SHUFFLE_PAIRS(b[i], b[i + 2], 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23));
    store_pair(to + 32 * i + 16, LGRNET_SHUFFLE_PAIRS(b[i], b[i + 2], 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29,
                                                      30, 31));
  }
}
#endif

// Between up to LANES rows of d floats, one after the other, and their columns. D is d where the compiler knows it, else
// 0: below, too. Where D is LANES there are LANES rows, and the columns lie one after the other.
template <int D>
class Transpose {
 public:
  explicit Transpose(int64_t channels) : number(channels), part(LANES * channels) {}

  // Column c becomes columns[c * step]; lanes without a row are 0.
  void load(const float *from, int64_t count, Lanes *columns, int64_t step = 1) {
#if defined(__AVX512F__)
    if constexpr (D == LANES) return transpose_eights(from, reinterpret_cast<float *>(columns));
#endif
    if (count < LANES) {
      std::fill_n(std::copy_n(from, count * d(), part.data()), (LANES - count) * d(), 0.0f);
      from = part.data();
    }
    gather_columns(from, d(), d(), columns, step);
  }

  void store(const Lanes *columns, int64_t count, float *to, int64_t step = 1) {
#if defined(__AVX512F__)
    if constexpr (D == LANES) return transpose_eights(reinterpret_cast<const float *>(columns), to);
#endif
    scatter_columns(columns, d(), count < LANES ? part.data() : to, d(), step);
    if (count < LANES) std::copy_n(part.data(), count * d(), to);
  }

 private:
  int64_t d() const { return D ? D : number; }

  int64_t number;
  Floats part;
};

// The tokens of one level and frame, row by row.
template <int D>
class Map {
 public:
  Map(const Problem &p, const Level &level)
      : one_token(p.one_token()), channels(p.channels), token(p.heads * p.channels), width(level.width),
        height(level.height), block_tokens(std::min((LANES + p.heads - 1) / p.heads, width)),
        dense(one_token ? 0 : width * token), transpose(p.channels) {}

  void open(const Input &from, const Level &level, int64_t clip, int64_t frame) {
    stride = from.token;
    data = from.data + clip * from.clip + frame * from.frame + level.first_token * stride;
  }

  // Row y for `columns`, until the next call; without gaps between tokens where vectors are of several.
  const float *row(int64_t y) {
    const float *tokens = data + y * width * stride;
    if (stride == token || one_token) return tokens;
    float *copy = dense.data();
    for (int64_t x = 0; x < width; ++x) std::copy_n(tokens + x * stride, token, copy + x * token);
    return copy;
  }

  // The channels of a block of a row, `step` vectors apart.
  void columns(const float *row, const Block &block, Lanes *to, int64_t step = 1) {
    const int64_t at = one_token ? block.x * stride + block.head * channels : block.begin * channels;
    transpose.load(row + at, block.count, to, step);
  }

  // Starts to load a block of row y from memory, as far as the second cache: it is not needed soon. Inlined, since GCC
  // drops calls that do nothing else.
  __attribute__((always_inline)) void expect(int64_t y, const Block &block) const {
    if (y >= height) return;
    const float *tokens = data + (y * width + block.x) * stride;
    for (int64_t x = 0; x < block_tokens; ++x, tokens += stride)
      for (int64_t c = 0; c < token; c += CACHE_LINE) __builtin_prefetch(tokens + c, 0, 2);
  }

 private:
  bool one_token;
  int64_t channels, token, width, height, block_tokens, stride = 0;
  const float *data = nullptr;
  Floats dense;
  Transpose<D> transpose;
};

// The rows that a window spans; as it moves on, a row takes the place of one that is past.
template <int D>
class Rows {
 public:
  Rows(const Problem &problem, const Level &of)
      : p(problem), level(of), size(p.channels * of.plane), memory(p.span() * size), transpose(p.channels) {}

  float *row(int64_t r) { return memory.data() + r % p.span() * size; }

  void clear(int64_t r) { std::fill_n(row(r), size, 0.0f); }

  // Row r of a map, zeros below it. What is right of the map stays 0.
  void read(Map<D> &map, int64_t r) {
    if (r >= level.height) return clear(r);
    const float *tokens = map.row(r);
    float *to = row(r);
    for (const Block &block : level.blocks)
      map.columns(tokens, block, reinterpret_cast<Lanes *>(to + block.begin * level.unit), level.channel / LANES);
    // Each is stored as a whole vector, and the next one over what is too much of it.
    for (int64_t c = 0; c < p.channels; ++c, to += level.channel)
      for (const Copy &copy : level.copies) store(to + copy.to, load(to + copy.from));
  }

  // Writes a row of gradients, and those behind its planes, to its tokens.
  void write(float *tokens, int64_t r) {
    float *from = row(r);
    for (const Copy &copy : level.copies) {
      float *to = from + copy.from;
      const float *more = from + copy.to;
      const IntLanes taken = lane_numbers() < copy.count;
      for (int64_t c = 0; c < p.channels; ++c, to += level.channel, more += level.channel)
        store(to, load(to) + (taken ? load(more) : Lanes{}));
    }
    for (const Block &block : level.blocks)
      transpose.store(reinterpret_cast<const Lanes *>(from + block.begin * level.unit), block.count,
                      tokens + block.begin * p.channels, level.channel / LANES);
  }

 private:
  const Problem &p;
  const Level &level;
  int64_t size;
  Floats memory;
  Transpose<D> transpose;
};

}  // namespace neighborhood
