// Linear layers of tokens, forward and backward, in float32, and forward in bfloat16 with sums in float32.
//
// Weights are laid out in panels, a few vectors of output channels for one input channel after the other. Of bfloat16 a
// lane holds two input channels, and a row of them is one of floats: half as many steps, of the same kind. A tile of
// ROWS x WIDE vectors of the output stays in registers while it goes through a panel. Meanwhile the tokens of the next
// tile and the output's own lines are fetched: between the layers of a net they seldom lie in the nearest caches, and to
// wait for them is what a product of so few channels loses most by.
//
// Backward the same products run with other operands: the gradient of the tokens is that of the output times the weights,
// which are laid out by columns, and the gradient of the weights is that of the output, read across its rows, times the
// tokens.
//
// Every number of the output is summed in one order, whatever the number of threads or rows.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "../../cpu/matrices.h"
#include "../../cpu/threads.h"
#include "../../cpu/transpose.h"

namespace {

constexpr int WIDE = 2;                     // vectors of a panel
constexpr int ROWS = REGISTERS == 32 ? 12 : 6;  // of a tile: what WIDE leaves room for
constexpr int64_t PANEL = WIDE * LANES;     // output channels of a panel
// Steps that are summed up by themselves: long sums of float32 lose digits; those of bfloat16 would where they are kept.
template <class T>
constexpr int64_t DEPTH = PER_LANE<T> == 1 ? 384 : INT64_MAX;
constexpr int64_t WEIGHTS = 64 * 1024;      // floats of weights at once: they stay in the second cache
constexpr int64_t MATRICES = 256 * 1024;    // and those of processors that have AMX, whose second cache is larger
constexpr int64_t INPUTS = 16 * 1024;       // and so do the floats of a block of rows
constexpr int64_t TOGETHER = CACHE_LINE;    // floats at a time
constexpr int64_t SMALL = 64 * 1024;        // a result of fewer floats is summed SLICE tokens at a time
constexpr int64_t SLICE = 4096;

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
};

// What a tile writes to, of `columns` channels: the product, and what is added to it if there is something.
template <class T>
struct Place {
  T *out;
  const T *add;
  int64_t out_step, add_step, columns;
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

template <class T, bool ACROSS, int R>
LGRNET_INLINE void multiply(const float *x, int64_t step, const Lanes *panel, Lanes (*sums)[WIDE]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    const Lanes one = all(x[ACROSS ? r : r * step]);
#pragma GCC unroll 4
    for (int v = 0; v < WIDE; ++v) sums[r][v] = add_product<T>(sums[r][v], one, panel[v]);
  }
}

// The panel begins with the vectors of the bias. `fetch` says that the rows of the next tile are.
template <int R, bool WHOLE, bool ACROSS, class T>
LGRNET_INLINE void tile(const float *x, int64_t step, int64_t depth, bool fetch, const Lanes *panel,
                        const Place<T> &place) {
  Lanes sums[R][WIDE];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    __builtin_prefetch(place.out + r * place.out_step, 1);
    if (place.add) __builtin_prefetch(place.add + r * place.add_step);
#pragma GCC unroll 4
    for (int v = 0; v < WIDE; ++v) sums[r][v] = panel[v];
  }
  panel += WIDE;
  int64_t c = 0;
  for (; c + TOGETHER <= depth; c += TOGETHER) {
    if (fetch && !ACROSS)
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) __builtin_prefetch(x + (R + r) * step + c);
#pragma GCC unroll 4
    for (int64_t k = 0; k < TOGETHER; ++k, panel += WIDE)
      multiply<T, ACROSS, R>(x + (c + k) * (ACROSS ? step : 1), step, panel, sums);
  }
  for (; c < depth; ++c, panel += WIDE) multiply<T, ACROSS, R>(x + c * (ACROSS ? step : 1), step, panel, sums);
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < WIDE; ++v) write<WHOLE>(place, r, v, sums[r][v]);
}

// The tiles of a panel one below the other, and of the rows that are left smaller ones.
template <int R, bool WHOLE, bool ACROSS, class T>
void tiles(int64_t rows, const float *x, int64_t step, int64_t depth, bool fetch, const Lanes *panel, Place<T> place) {
  for (; rows >= R; rows -= R, x += R * (ACROSS ? 1 : step)) {
    tile<R, WHOLE, ACROSS, T>(x, step, depth, fetch, panel, place);
    place.out += R * place.out_step;
    if (place.add) place.add += R * place.add_step;
  }
  if constexpr (R > 1)
    if (rows) tiles<R / 2, WHOLE, ACROSS, T>(rows, x, step, depth, fetch, panel, place);
}

// The same by products of whole matrices, 2 x 2 of them side by side. What does not fill them is copied, with zeros.
constexpr int SQUARE = 2 * TILE;

template <bool WHOLE>
void squares(int64_t rows, const float *x, int64_t step, int64_t depth, const Lanes *panel, Place<BFloat16> place,
             float *copy) {
  const int64_t whole = whole_tiles(depth);
  for (; rows > 0; rows -= SQUARE, x += SQUARE * step) {
    const int64_t some = std::min<int64_t>(rows, SQUARE);
    const float *from = x;
    int64_t apart = step;
    if (some < SQUARE || whole > depth) {
      for (int64_t r = 0; r < SQUARE; ++r)
        for (int64_t c = 0; c < whole; ++c) copy[r * whole + c] = r < some && c < depth ? x[r * step + c] : 0;
      from = copy;
      apart = whole;
    }
    clear_tile<0>(), clear_tile<1>(), clear_tile<2>(), clear_tile<3>();
    for (int64_t r = 0; r < some; ++r) {
      __builtin_prefetch(place.out + r * place.out_step, 1);
      if (place.add) __builtin_prefetch(place.add + r * place.add_step);
    }
    const Lanes *weights = panel + WIDE;
    for (int64_t c = 0; c < whole; c += TILE, weights += TILE * WIDE) {
      load_tile<4>(from + c, apart);
      load_tile<6>(weights, PANEL);
      load_tile<7>(weights + 1, PANEL);
      multiply_tiles<0, 4, 6>();
      multiply_tiles<1, 4, 7>();
      load_tile<5>(from + TILE * apart + c, apart);
      multiply_tiles<2, 5, 6>();
      multiply_tiles<3, 5, 7>();
    }
    alignas(64) float sums[SQUARE * PANEL];
    store_tile<0>(sums, PANEL);
    store_tile<1>(sums + LANES, PANEL);
    store_tile<2>(sums + TILE * PANEL, PANEL);
    store_tile<3>(sums + TILE * PANEL + LANES, PANEL);
    for (int64_t r = 0; r < some; ++r) {
      Lanes row[WIDE];
      for (int v = 0; v < WIDE; ++v) row[v] = panel[v] + load(sums + r * PANEL + v * LANES);
      if (WHOLE) {
        const BFloat16 *add = place.add ? place.add + r * place.add_step : nullptr;
        if (add) row[0] += load(add), row[1] += load(add + LANES);
        store_both(place.out + r * place.out_step, row[0], row[1]);
      } else {
        for (int v = 0; v < WIDE; ++v) write<WHOLE>(place, r, v, row[v]);
      }
    }
    place.out += SQUARE * place.out_step;
    if (place.add) place.add += SQUARE * place.add_step;
  }
}

// Panel after panel the bias, if it is wanted, and the weights of `depth` input channels from `from` on, then zeros up
// to `steps` of them.
template <class T, bool ACROSS>
void lay_out(const Problem<T, ACROSS> &p, int64_t begin, int64_t end, int64_t from, int64_t depth, int64_t steps,
             bool with_bias, Lanes *to) {
  for (int64_t column = begin; column < end; column += PANEL, to += (steps + 1) * WIDE) {
    std::fill(to + (depth + 1) * WIDE, to + (steps + 1) * WIDE, Lanes{});
    for (int v = 0; v < WIDE; ++v) {
      const int64_t first = column + v * LANES;
      const int there = static_cast<int>(std::clamp<int64_t>(end - first, 0, LANES));
      to[v] = with_bias && there ? load_part(p.bias + first, there) : Lanes{};
      if (p.by_columns) {
        const float *row = p.weight + from * p.weight_step + first;
        for (int64_t c = 0; c < depth; ++c, row += p.weight_step) to[(c + 1) * WIDE + v] = load_part(row, there);
        continue;
      }
      const float *rows = p.weight + first * p.weight_step + from;
      if (there == LANES) {
        gather_columns(rows, p.weight_step, depth, to + WIDE + v, WIDE);
        continue;
      }
      for (int64_t c = 0; c < depth; ++c) {
        float some[LANES] = {};
        for (int lane = 0; lane < there; ++lane) some[lane] = rows[lane * p.weight_step + c];
        to[(c + 1) * WIDE + v] = load(some);
      }
    }
  }
}

// Some rows and some columns of the output.
template <class T, bool ACROSS>
void multiply_part(const Problem<T, ACROSS> &p, int64_t first_row, int64_t last_row, int64_t begin, int64_t end) {
  const int64_t shares = (p.inputs - 1) / DEPTH<T> + 1;
  const int64_t most = ((p.inputs + shares - 1) / shares + TOGETHER - 1) / TOGETHER * TOGETHER;
  const int64_t tile_rows = p.by_matrices ? SQUARE : ROWS;
  const int64_t block = std::max<int64_t>(4, INPUTS / most / tile_rows) * tile_rows;
  const std::unique_ptr<Lanes[]> weights(new Lanes[(end - begin + PANEL - 1) / PANEL * (most + 1) * WIDE]);
  std::vector<float> copy(p.by_matrices ? SQUARE * most : 0);
  std::optional<Tiles> tiles_of_thread;
  if (p.by_matrices) tiles_of_thread.emplace();
  for (int64_t from = 0; from < p.inputs; from += most) {
    const int64_t depth = std::min(most, p.inputs - from), steps = p.by_matrices ? most : depth;
    lay_out(p, begin, end, from, depth, steps, p.bias && from == 0, weights.get());
    const T *add = from == 0 ? p.add : p.out;
    const int64_t add_step = from == 0 ? p.add_step : p.out_step;
    for (int64_t row = first_row; row < last_row; row += block) {
      const Lanes *panel = weights.get();
      for (int64_t column = begin; column < end; column += PANEL, panel += (steps + 1) * WIDE) {
        const Place<T> place{p.out + row * p.out_step + column, add ? add + row * add_step + column : nullptr, p.out_step,
                          add_step, end - column};
        if constexpr (PER_LANE<T> == 2)
          if (p.by_matrices) {
            (place.columns >= PANEL ? squares<true> : squares<false>)(std::min(block, last_row - row), p.at(row, from),
                                                                      p.step, depth, panel, place, copy.data());
            continue;
          }
        (place.columns >= PANEL ? tiles<ROWS, true, ACROSS, T> : tiles<ROWS, false, ACROSS, T>)(
            std::min(block, last_row - row), p.at(row, from), p.step, depth, column == begin, panel, place);
      }
    }
  }
}

template <class T, bool ACROSS>
void multiply_all(const Problem<T, ACROSS> &p, int threads) {
  const int64_t most = p.by_matrices ? MATRICES : WEIGHTS;
  const int64_t columns = std::max<int64_t>(1, most / std::min(p.inputs, DEPTH<T>) / PANEL) * PANEL;
  const int64_t column_parts = (p.outputs + columns - 1) / columns;
  const int64_t wanted = threads > 1 ? (4 * threads + column_parts - 1) / column_parts : 1;
  const int64_t height = (std::max<int64_t>((p.rows + wanted - 1) / wanted, 16 * ROWS) + ROWS - 1) / ROWS * ROWS;
  const int64_t row_parts = (p.rows + height - 1) / height;
  parallel_for(column_parts * row_parts, threads, [&](int64_t task) {
    const int64_t row = task / column_parts * height, column = task % column_parts * columns;
    multiply_part(p, row, std::min(row + height, p.rows), column, std::min(column + columns, p.outputs));
  });
}

// A sum over tokens. Where the result is small, so many tokens at a time that there is work for many threads; their
// shares are added in order.
void multiply_tokens(const Problem<float, true> &p, int threads) {
  const int64_t size = p.rows * p.outputs, slices = size > SMALL ? 1 : (p.inputs - 1) / SLICE + 1;
  std::vector<float> shares((slices - 1) * size);
  parallel_for(slices, slices > 1 ? threads : 1, [&](int64_t slice) {
    Problem<float, true> part = p;
    part.x = p.at(0, slice * SLICE);
    part.weight = p.weight + slice * SLICE * p.weight_step;
    part.inputs = slices > 1 ? std::min(SLICE, p.inputs - slice * SLICE) : p.inputs;
    part.out = slice ? &shares[(slice - 1) * size] : p.out;
    multiply_all(part, slices > 1 ? 1 : threads);
  });
  for (int64_t slice = 1; slice < slices; ++slice)
    for (int64_t i = 0; i < size; ++i) p.out[i] += shares[(slice - 1) * size + i];
}

}  // namespace

extern "C" {

// x [rows, inputs], weight [outputs, inputs], or [inputs, outputs] if `by_columns` is not 0, bias [outputs] or null, add
// like out or null, or `out` itself, and out [rows, outputs] are of float or, if `bfloat16` is 1 or, for products of
// whole matrices, 2, of BFloat16: then inputs, step and weight_step are even, and by_columns is 0. Rows lie so many
// numbers apart. No size is 0.
void lgrnet_linear(const void *x, const void *weight, const void *bias, const void *add, void *out, int64_t rows,
                   int64_t inputs, int64_t outputs, int64_t step, int64_t weight_step, int64_t add_step,
                   int64_t out_step, int64_t bfloat16, int64_t by_columns, int threads) {
  const auto run = [&](auto *to) {
    using T = std::decay_t<decltype(*to)>;
    constexpr int64_t N = PER_LANE<T>;
    multiply_all(Problem<T>{static_cast<const float *>(x), static_cast<const float *>(weight),
                            static_cast<const T *>(bias), static_cast<const T *>(add), to, rows, inputs / N, outputs,
                            step / N, weight_step / N, add_step, out_step, by_columns != 0, bfloat16 == 2},
                 threads);
  };
  bfloat16 ? run(static_cast<BFloat16 *>(out)) : run(static_cast<float *>(out));
}

// out [rows, outputs] = x [inputs, rows], transposed, times weight [inputs, outputs]: the sum over many tokens, `inputs`
// of them. Rows of x and weight lie so many floats apart. No size is 0.
void lgrnet_linear_across(const float *x, const float *weight, float *out, int64_t rows, int64_t inputs,
                          int64_t outputs, int64_t step, int64_t weight_step, int threads) {
  multiply_tokens({x, weight, nullptr, nullptr, out, rows, inputs, outputs, step, weight_step, 0, outputs, true},
                  threads);
}
}
