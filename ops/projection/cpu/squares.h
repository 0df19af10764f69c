// Linear layers of bfloat16 by products of whole matrices (AMX): squares of 2 x 2 tiles of the output.
#pragma once

#include <algorithm>

#include "../../cpu/matrices.h"
#include "../../cpu/scratch.h"
#include "problem.h"

namespace projection {

constexpr int SQUARE = 2 * TILE;           // rows of a square
constexpr int64_t MATRICES = 256 * 1024;   // pairs of weights at once: half of the second cache of such processors
constexpr int64_t BLOCK = 16 * 1024;       // pairs of a block of rows, which stay there, too

// Panel after panel the bias and the weights, with zeros up to whole tiles.
inline void lay_out_squares(const Problem<BFloat16> &p, int64_t begin, int64_t end, Lanes *to) {
  const int64_t steps = whole_tiles(p.inputs);
  for (int64_t column = begin; column < end; column += PANEL, to += (steps + 1) * WIDE) {
    std::fill(to + (p.inputs + 1) * WIDE, to + (steps + 1) * WIDE, Lanes{});
    p.panel_of(column, end, 0, p.inputs, to);
  }
}

// Adds the product of a square's rows, which lie `step` pairs apart, with a panel's weights to tiles 0 to 3.
LGRNET_INLINE void multiply_square(const float *rows, int64_t step, const Lanes *weights, int64_t steps) {
  for (int64_t c = 0; c < steps; c += TILE, weights += TILE * WIDE) {
    load_tile<4>(rows + c, step);
    load_tile<6>(weights, PANEL);
    load_tile<7>(weights + 1, PANEL);
    multiply_tiles<0, 4, 6>();
    multiply_tiles<1, 4, 7>();
    load_tile<5>(rows + TILE * step + c, step);
    multiply_tiles<2, 5, 6>();
    multiply_tiles<3, 5, 7>();
  }
}

// Writes tiles 0 to 3, with the bias at the panel's begin.
template <bool WHOLE>
LGRNET_INLINE void write_square(const Lanes *panel, int64_t rows, const Place<BFloat16> &place) {
  alignas(CACHE_LINE * sizeof(float)) float sums[SQUARE * PANEL];
  store_tile<0>(sums, PANEL);
  store_tile<1>(sums + LANES, PANEL);
  store_tile<2>(sums + TILE * PANEL, PANEL);
  store_tile<3>(sums + TILE * PANEL + LANES, PANEL);
  const Lanes bias[WIDE] = {panel[0], panel[1]};
  for (int64_t r = 0; r < rows; ++r) {
    Lanes row[WIDE] = {bias[0] + load(sums + r * PANEL), bias[1] + load(sums + r * PANEL + LANES)};
    if (WHOLE) {
      const BFloat16 *add = place.add ? place.add + r * place.add_step : nullptr;
      if (add) row[0] += load(add), row[1] += load(add + LANES);
      store_both(place.out + r * place.out_step, row[0], row[1]);
    } else {
      for (int v = 0; v < WIDE; ++v) write<WHOLE>(place, r, v, row[v]);
    }
  }
}

// The squares of a panel one below the other. What does not fill one is copied, with zeros.
template <bool WHOLE>
void squares(const Problem<BFloat16> &p, int64_t rows, const float *x, const Lanes *panel, Place<BFloat16> place,
             float *copy) {
  const int64_t steps = whole_tiles(p.inputs);
  for (; rows > 0; rows -= SQUARE, x += SQUARE * p.step) {
    const int64_t some = std::min<int64_t>(rows, SQUARE);
    const bool fills = some == SQUARE && steps == p.inputs;
    if (!fills) {
      std::fill_n(copy, SQUARE * steps, 0.0f);
      for (int64_t r = 0; r < some; ++r) std::copy_n(x + r * p.step, p.inputs, copy + r * steps);
    }
    if (place.add)
      for (int64_t r = 0; r < some; ++r) __builtin_prefetch(place.add + r * place.add_step);
    clear_tile<0>(), clear_tile<1>(), clear_tile<2>(), clear_tile<3>();
    multiply_square(fills ? x : copy, fills ? p.step : steps, panel + WIDE, steps);
    write_square<WHOLE>(panel, some, place);
    place.go_down(SQUARE);
  }
}

// Some rows and some columns of the output.
inline void multiply_squares(const Problem<BFloat16> &p, int64_t first_row, int64_t last_row, int64_t begin,
                             int64_t end) {
  const int64_t steps = whole_tiles(p.inputs), block = std::max<int64_t>(4, BLOCK / steps / SQUARE) * SQUARE;
  Lanes *const weights = scratch<Lanes>((end - begin + PANEL - 1) / PANEL * (steps + 1) * WIDE);
  float *const copy = scratch<float>(SQUARE * steps);
  lay_out_squares(p, begin, end, weights);
  const Tiles tiles;
  for (int64_t row = first_row; row < last_row; row += block) {
    const Lanes *panel = weights;
    for (int64_t column = begin; column < end; column += PANEL, panel += (steps + 1) * WIDE) {
      const Place<BFloat16> place(p, row, column, end, 0);
      (place.whole() ? squares<true> : squares<false>)(p, std::min(block, last_row - row), p.at(row, 0), panel, place,
                                                       copy);
    }
  }
}

}  // namespace projection
