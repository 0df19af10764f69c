// How the maps of a level lie in memory while neighborhood.cpp works on them, and which keys are whose.
//
// A row of a map is [x][head][channel] in memory. Its transpose, a plane of (x, head) for each channel, takes a network
// of shuffles, and in it the keys of LANES neighbouring (x, head) for one place of the window are one load, since all
// heads have the same windows. They are not where windows are shifted, near the left and right border: the keys of the
// blocks there are copied once per row to behind the plane. Planes exist of as many rows as a window spans.
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

// LANES neighbouring (x, head) of a row of queries. Key i of their windows is at first + i * step of a plane.
struct Block {
  int64_t begin, count, first, step, token;  // token is the x of the first one
  bool inner;  // no window is shifted: the keys are in the plane, else they are behind it
};

// `count` neighbouring keys, which are also behind the plane.
struct Copy {
  int32_t from, to, count;
};

// What all frames share of a level: where windows are, and how a row of keys lies in memory.
struct Level {
  int64_t height, width, first_token, rows, columns, lanes, plane;
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
    plane = whole(columns * p.heads) + LANES;  // loads and stores of whole vectors may reach past the last key
    for (int64_t begin = 0; begin < lanes; begin += LANES) add_block(p, begin);
    plane += LANES;
  }

  void add_block(const Problem &p, int64_t begin) {
    const int64_t count = std::min<int64_t>(LANES, lanes - begin), step = p.dilation * p.heads;
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
    if (inner) {
      if (inner_end == 0) inner_begin = begin;
      inner_end = begin + LANES;
      return blocks.push_back({begin, count, begin - p.reach() * p.heads, step, begin / p.heads, true});
    }
    blocks.push_back({begin, count, plane, LANES, begin / p.heads, false});
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

// The transpose of up to LANES rows of d floats; lanes without a row are 0. D > 0 is d known to the compiler.
template <int D>
LGRNET_INLINE void load_columns(const float *from, int64_t count, int64_t d, Lanes *columns) {
  if (D > 0) {
    float part[(D ? D : 1) * LANES];
    if (count < LANES) {
      std::memset(part, 0, sizeof(part));
      std::memcpy(part, from, count * D * sizeof(float));
      from = part;
    }
    for (int c = 0; c < D; ++c) columns[c] = load(from + c * LANES);
    rows_to_columns<D ? D : 1>(columns);
  } else {
    for (int64_t c = 0; c < d; ++c) {
      columns[c] = Lanes{};
      for (int64_t lane = 0; lane < count; ++lane) columns[c][lane] = from[lane * d + c];
    }
  }
}

template <int D>
LGRNET_INLINE void store_columns(float *to, int64_t count, int64_t d, Lanes *columns) {
  if (D > 0) {
    columns_to_rows<D ? D : 1>(columns);
    float part[(D ? D : 1) * LANES];
    float *place = count < LANES ? part : to;
    for (int c = 0; c < D; ++c) store(place + c * LANES, columns[c]);
    if (count < LANES) std::memcpy(to, part, count * D * sizeof(float));
  } else {
    for (int64_t c = 0; c < d; ++c)
      for (int64_t lane = 0; lane < count; ++lane) to[lane * d + c] = columns[c][lane];
  }
}

// Memory for floats that begins where a vector may.
class Floats {
 public:
  explicit Floats(int64_t count) : memory(whole(count) / LANES, Lanes{}) {}
  float *data() { return reinterpret_cast<float *>(memory.data()); }

 private:
  std::vector<Lanes> memory;
};

// The tokens of one level and frame, row by row.
class Map {
 public:
  Map(const Problem &p, const Level &level)
      : token(p.heads * p.channels), width(level.width), height(level.height),
        block_tokens(std::min((LANES + p.heads - 1) / p.heads, width)), dense(width * token) {}

  void open(const Input &from, const Level &level, int64_t clip, int64_t frame) {
    stride = from.token;
    data = from.data + clip * from.clip + frame * from.frame + level.first_token * stride;
  }

  // Row y without gaps between tokens, until the next call.
  const float *row(int64_t y) {
    const float *tokens = data + y * width * stride;
    if (stride == token) return tokens;
    float *copy = dense.data();
    for (int64_t x = 0; x < width; ++x) std::memcpy(copy + x * token, tokens + x * stride, token * sizeof(float));
    return copy;
  }

  // Starts to load a block of row y from memory. Inlined, since GCC drops calls that do nothing else.
  __attribute__((always_inline)) void expect(int64_t y, const Block &block) const {
    if (y >= height) return;
    const float *tokens = data + (y * width + block.token) * stride;
    for (int64_t x = 0; x < block_tokens; ++x, tokens += stride)
      for (int64_t c = 0; c < token; c += CACHE_LINE) __builtin_prefetch(tokens + c);
  }

 private:
  static constexpr int64_t CACHE_LINE = 16;  // floats
  int64_t token, width, height, block_tokens, stride = 0;
  const float *data = nullptr;
  Floats dense;
};

// Planes of the rows that a window spans, [d][plane] each; as it moves on, a row takes the place of one that is past.
template <int D>
class Rows {
 public:
  Rows(const Problem &problem, const Level &of)
      : p(problem), level(of), size(p.channels * of.plane), memory(p.span() * size), spare(p.channels) {}

  float *row(int64_t r) { return memory.data() + r % p.span() * size; }

  void clear(int64_t r) { std::fill_n(row(r), size, 0.0f); }

  // Row r of a map, zeros below it. What is right of the map stays 0.
  void read(Map &map, int64_t r) {
    if (r >= level.height) return clear(r);
    const int64_t d = D ? D : p.channels;
    const float *tokens = map.row(r);
    float *planes = row(r);
    Lanes fixed[D ? D : 1], *columns = D ? fixed : spare.data();
    for (const Block &block : level.blocks) {
      load_columns<D>(tokens + block.begin * d, block.count, d, columns);
      for (int64_t c = 0; c < d; ++c) store(planes + c * level.plane + block.begin, columns[c]);
    }
    // Each is stored as a whole vector, and the next one over what is too much of it.
    for (int64_t c = 0; c < d; ++c, planes += level.plane)
      for (const Copy &copy : level.copies) store(planes + copy.to, load(planes + copy.from));
  }

  // Writes a row of gradients, and those behind its planes, to its tokens.
  void write(float *tokens, int64_t r) {
    const int64_t d = D ? D : p.channels;
    float *planes = row(r);
    for (const Copy &copy : level.copies) {
      float *to = planes + copy.from;
      const float *from = planes + copy.to;
      const IntLanes taken = lane_numbers() < copy.count;
      for (int64_t c = 0; c < d; ++c, to += level.plane, from += level.plane)
        store(to, load(to) + (taken ? load(from) : Lanes{}));
    }
    Lanes fixed[D ? D : 1], *columns = D ? fixed : spare.data();
    for (const Block &block : level.blocks) {
      for (int64_t c = 0; c < d; ++c) columns[c] = load(row(r) + c * level.plane + block.begin);
      store_columns<D>(tokens + block.begin * d, block.count, d, columns);
    }
  }

 private:
  const Problem &p;
  const Level &level;
  int64_t size;
  Floats memory;
  std::vector<Lanes> spare;
};

}  // namespace neighborhood
