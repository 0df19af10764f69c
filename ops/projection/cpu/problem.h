// What a linear layer is asked for, and how both kinds of products (projection.cpp, squares.h) lay out its weights and
// write what they have.
//
// Weights are laid out in panels, a few vectors of output channels for one input channel after the other, behind those of
// the bias. Of bfloat16 a lane holds two input channels, and a row of them is one of floats: half as many steps, of the
// same kind.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../../cpu/bfloat16.h"
#include "../../cpu/transpose.h"

namespace projection {

constexpr int WIDE = 2;                  // vectors of a panel
constexpr int64_t PANEL = WIDE * LANES;  // output channels of a panel

// The inputs' channels and steps are counted in floats, each of which holds PER_LANE<T> of them. ACROSS: x is what lies
// in memory as [inputs, rows], with `step` from one input channel to the next.
template <class T, bool ACROSS = false>
struct Problem {
  const float *x, *weight;  // [rows, inputs]; [outputs, inputs], or [inputs, outputs] where it lies `by_columns`
  const T *bias, *add;      // [outputs] or null, like out or null
  T *out;                   // [rows, outputs]
  int64_t rows, inputs, outputs;
  int64_t step, weight_step, add_step, out_step;  // from one row to the next
  bool by_columns = false;
  bool by_matrices = false;  // of bfloat16, by a processor that multiplies them whole

  const float *at(int64_t row, int64_t channel) const {
    return x + (ACROSS ? row + channel * step : row * step + channel);
  }

  // The panel of the output channels from `column` on: their bias, or zeros for those that are added to others, and the
  // weights of `depth` input channels from `from` on. Channels from `end` on are zeros.
  void panel_of(int64_t column, int64_t end, int64_t from, int64_t depth, Lanes *to) const {
    for (int v = 0; v < WIDE; ++v, ++to) {
      const int64_t first = column + v * LANES;
      const int there = static_cast<int>(std::clamp<int64_t>(end - first, 0, LANES));
      *to = bias && there && from == 0 ? load_part(bias + first, there) : Lanes{};
      weights_of(first, there, from, depth, to + WIDE);
    }
  }

 private:
  void weights_of(int64_t first, int there, int64_t from, int64_t depth, Lanes *to) const {
    if (by_columns) {
      const float *row = weight + from * weight_step + first;
      for (int64_t c = 0; c < depth; ++c, row += weight_step) to[c * WIDE] = load_part(row, there);
      return;
    }
    const float *rows_of = weight + first * weight_step + from;
    if (there == LANES) return gather_columns(rows_of, weight_step, depth, to, WIDE);
    for (int64_t c = 0; c < depth; ++c) {
      float some[LANES] = {};
      for (int lane = 0; lane < there; ++lane) some[lane] = rows_of[lane * weight_step + c];
      to[c * WIDE] = load(some);
    }
  }
};

// What a tile writes to, of `columns` channels: the product, and what is added to it if there is something.
template <class T>
struct Place {
  T *out;
  const T *add;
  int64_t out_step, add_step, columns;

  // Of the product's share from the input channel `from` on: all but the first are added to those before.
  template <bool ACROSS>
  Place(const Problem<T, ACROSS> &p, int64_t row, int64_t column, int64_t last_column, int64_t from)
      : out(p.out + row * p.out_step + column), add(from ? p.out : p.add), out_step(p.out_step),
        add_step(from ? p.out_step : p.add_step), columns(last_column - column) {
    if (add) add += row * add_step + column;
  }

  bool whole() const { return columns >= PANEL; }

  void go_down(int64_t rows) {
    out += rows * out_step;
    if (add) add += rows * add_step;
  }
};

template <bool WHOLE, class T>
LGRNET_INLINE void write(const Place<T> &place, int64_t row, int v, Lanes sum) {
  T *out = place.out + row * place.out_step + v * LANES;
  const T *add = place.add ? place.add + row * place.add_step + v * LANES : nullptr;
  if (WHOLE) {
    store(out, add ? load(add) + sum : sum);
  } else {
    const int count = static_cast<int>(std::clamp<int64_t>(place.columns - v * LANES, 0, LANES));
    store_part(out, add ? load_part(add, count) + sum : sum, count);
  }
}

}  // namespace projection
