// Linear layers of tokens, forward and backward, in float32, and forward in bfloat16 with sums in float32.
//
// A tile of ROWS x WIDE vectors of the output stays in registers while it goes through a panel of the weights (problem.h).
// Meanwhile the tokens of the next tile and the output's own lines are fetched: between the layers of a net they seldom
// lie in the nearest caches, and to wait for them is what a product of so few channels loses most by. Processors that
// multiply whole matrices do it by squares.h.
//
// Backward the same products run with other operands: the gradient of the tokens is that of the output times the weights,
// which are laid out by columns, and the gradient of the weights is that of the output, read across its rows, times the
// tokens.
//
// Every number of the output is summed in one order, whatever the number of threads or rows.
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../../cpu/scratch.h"
#include "../../cpu/threads.h"
#include "problem.h"
#include "squares.h"

namespace {

using namespace projection;

constexpr int ROWS = REGISTERS == 32 ? 12 : 6;  // of a tile: what WIDE leaves room for
// Steps that are summed up by themselves: long sums of float32 lose digits; those of bfloat16 would where they are kept.
template <class T>
constexpr int64_t DEPTH = PER_LANE<T> == 1 ? 384 : INT64_MAX;
constexpr int64_t TOGETHER = CACHE_LINE;    // floats at a time
constexpr int64_t WEIGHTS = 64 * 1024;      // floats of weights at once: they stay in the second cache
constexpr int64_t INPUTS = 16 * 1024;       // and so do the floats of a block of rows
constexpr int64_t SMALL = 64 * 1024;        // a result of fewer floats is summed SLICE tokens at a time
constexpr int64_t SLICE = 4096;

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
    place.go_down(R);
  }
  if constexpr (R > 1)
    if (rows) tiles<R / 2, WHOLE, ACROSS, T>(rows, x, step, depth, fetch, panel, place);
}

// Some rows and some columns of the output.
template <class T, bool ACROSS>
void multiply_part(const Problem<T, ACROSS> &p, int64_t first_row, int64_t last_row, int64_t begin, int64_t end) {
  const int64_t shares = (p.inputs - 1) / DEPTH<T> + 1;
  const int64_t most = ((p.inputs + shares - 1) / shares + TOGETHER - 1) / TOGETHER * TOGETHER;
  const int64_t block = std::max<int64_t>(4, INPUTS / most / ROWS) * ROWS;
  Lanes *const weights = scratch<Lanes>((end - begin + PANEL - 1) / PANEL * (most + 1) * WIDE);
  for (int64_t from = 0; from < p.inputs; from += most) {
    const int64_t depth = std::min(most, p.inputs - from);
    Lanes *to = weights;
    for (int64_t column = begin; column < end; column += PANEL, to += (depth + 1) * WIDE)
      p.panel_of(column, end, from, depth, to);
    for (int64_t row = first_row; row < last_row; row += block) {
      const Lanes *panel = weights;
      for (int64_t column = begin; column < end; column += PANEL, panel += (depth + 1) * WIDE) {
        const Place<T> place(p, row, column, end, from);
        (place.whole() ? tiles<ROWS, true, ACROSS, T> : tiles<ROWS, false, ACROSS, T>)(
            std::min(block, last_row - row), p.at(row, from), p.step, depth, column == begin, panel, place);
      }
    }
  }
}

template <class T, bool ACROSS>
void multiply_all(const Problem<T, ACROSS> &p, int threads) {
  const int64_t most = p.by_matrices ? MATRICES : WEIGHTS, rows = p.by_matrices ? SQUARE : ROWS;
  const int64_t columns = std::max<int64_t>(1, most / std::min(p.inputs, DEPTH<T>) / PANEL) * PANEL;
  const int64_t column_parts = (p.outputs + columns - 1) / columns;
  const int64_t wanted = threads > 1 ? (4 * threads + column_parts - 1) / column_parts : 1;
  const int64_t height = (std::max<int64_t>((p.rows + wanted - 1) / wanted, 16 * rows) + rows - 1) / rows * rows;
  const int64_t row_parts = (p.rows + height - 1) / height;
  parallel_for(column_parts * row_parts, threads, [&](int64_t task) {
    const int64_t row = task / column_parts * height, column = task % column_parts * columns;
    const int64_t last_row = std::min(row + height, p.rows), last_column = std::min(column + columns, p.outputs);
    if constexpr (PER_LANE<T> == 2)
      if (p.by_matrices) return multiply_squares(p, row, last_row, column, last_column);
    multiply_part(p, row, last_row, column, last_column);
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
// like out or null, or `out` itself, and out [rows, outputs] are of float or, if `bfloat16` is not 0, of BFloat16:
// then inputs, step and weight_step are even, and by_columns is 0. Rows lie so many numbers apart. No size is 0.
// by_matrices: of BFloat16, not 0 where the processor has AMX and lgrnet_bfloat16 has asked for it.
int lgrnet_linear(const void *x, const void *weight, const void *bias, const void *add, void *out, int64_t rows,
                  int64_t inputs, int64_t outputs, int64_t step, int64_t weight_step, int64_t add_step,
                  int64_t out_step, int64_t bfloat16, int64_t by_columns, int64_t by_matrices, int threads) try {
  const auto run = [&](auto *to) {
    using T = std::decay_t<decltype(*to)>;
    constexpr int64_t N = PER_LANE<T>;
    multiply_all(Problem<T>{static_cast<const float *>(x), static_cast<const float *>(weight),
                            static_cast<const T *>(bias), static_cast<const T *>(add), to, rows, inputs / N, outputs,
                            step / N, weight_step / N, add_step, out_step, by_columns != 0, bfloat16 && by_matrices},
                 threads);
  };
  bfloat16 ? run(static_cast<BFloat16 *>(out)) : run(static_cast<float *>(out));
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}

// out [rows, outputs] = x [inputs, rows], transposed, times weight [inputs, outputs]: the sum over many tokens, `inputs`
// of them. Rows of x and weight lie so many floats apart. No size is 0.
int lgrnet_linear_across(const float *x, const float *weight, float *out, int64_t rows, int64_t inputs,
                         int64_t outputs, int64_t step, int64_t weight_step, int threads) try {
  multiply_tokens({x, weight, nullptr, nullptr, out, rows, inputs, outputs, step, weight_step, 0, outputs, true},
                  threads);
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
