// Multi-head attention of tokens, forward, in float32.
//
// A task is some queries of one head of one image. It takes a few vectors of queries at a time, their channels one
// below the other: then softmax needs no sum across a vector, keys and values are read where they lie, one number for
// all queries, and the logits stay in the nearest cache between the two products. A product holds ROWS x V vectors in
// registers. What a task is never depends on the number of threads.
//
// Letters as in ops/attention/__init__.py: B images, N queries, M keys, d channels of each head.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/threads.h"
#include "../../cpu/transpose.h"

namespace {

constexpr int WIDE = 3;                       // vectors of queries at once, as long as there are so many
constexpr int ROWS = 4;                       // keys or channels at once
constexpr int64_t KEYS = 256;                 // keys whose shares are summed up by themselves: long sums lose digits
constexpr int64_t PART = 64 * WIDE * LANES;   // queries of a task, at most

struct Problem {
  int64_t batch, heads, queries, keys, channels;   // channels of one head
  int64_t query_step, key_step, value_step;        // floats from one token to the next
  float scale;

  int64_t parts() const { return (queries + PART - 1) / PART; }
  int64_t tasks() const { return batch * heads * parts(); }
};

// Calls use(r, v, sum) for the product of R rows of `depth` numbers, which begin row_step apart and go on in steps of
// their own, with `panel` [depth, V].
template <int R, int V, class Use>
LGRNET_INLINE void multiply(const float *rows, int64_t row_step, int64_t step, const Lanes *panel, int64_t depth,
                            Use use) {
  Lanes sums[R][V] = {};
  for (int64_t k = 0; k < depth; ++k, rows += step, panel += V)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Lanes one = all(rows[r * row_step]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] += one * panel[v];
    }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) use(r, v, sums[r][v]);
}

// The same for any number of rows; r goes on over all of them.
template <int V, class Use>
LGRNET_INLINE void multiply_all(int64_t count, const float *rows, int64_t row_step, int64_t step, const Lanes *panel,
                                int64_t depth, Use use) {
  int64_t first = 0;
  for (; first + ROWS <= count; first += ROWS)
    multiply<ROWS, V>(rows + first * row_step, row_step, step, panel, depth,
                      [&](int r, int v, Lanes sum) LGRNET_MEMBER { use(first + r, v, sum); });
  for (; first < count; ++first)
    multiply<1, V>(rows + first * row_step, row_step, step, panel, depth,
                   [&](int r, int v, Lanes sum) LGRNET_MEMBER { use(first + r, v, sum); });
}

// One head of one image.
class Head {
 public:
  Head(const Problem &problem, const float *keys_of, const float *values_of)
      : p(problem), keys(keys_of), values(values_of), columns(p.channels * WIDE), logits(p.keys * WIDE),
        some(LANES * p.channels) {}

  // out [count, d] of up to V * LANES queries.
  template <int V>
  void attend(const float *queries, int64_t count, float *out, int64_t out_step) {
    for (int v = 0; v < V; ++v) read(queries, v * LANES, count, &columns[v], V);
    const Lanes factor = all(p.scale * LOG2_E);
    for (int64_t i = 0; i < p.channels * V; ++i) columns[i] *= factor;
    Several<V> most = each<V>([](int) { return all(-std::numeric_limits<float>::infinity()); });
    multiply_all<V>(p.keys, keys, p.key_step, 1, columns.data(), p.channels,
                    [&](int64_t m, int v, Lanes sum) LGRNET_MEMBER {
                      logits[m * V + v] = sum;
                      most[v] = at_least(sum, most[v]);
                    });
    std::fill(columns.begin(), columns.end(), Lanes{});
    Several<V> total{};
    for (int64_t first = 0; first < p.keys; first += KEYS) {
      const int64_t keys_here = std::min(KEYS, p.keys - first);
      total = total + exponentials(most, first, keys_here);
      multiply_all<V>(p.channels, values + first * p.value_step, 1, p.value_step, &logits[first * V], keys_here,
                      [&](int64_t c, int v, Lanes sum) LGRNET_MEMBER { columns[c * V + v] += sum; });
    }
    const auto share = each<V>([&](int v) { return all(1.0f) / total[v]; });
    for (int64_t c = 0; c < p.channels; ++c)
      for (int v = 0; v < V; ++v) columns[c * V + v] *= share[v];
    for (int v = 0; v < V; ++v) write(&columns[v], V, out, out_step, v * LANES, count);
  }

 private:
  // Softmax's numerators in place of `count` logits of base 2; returns their sums.
  template <int V>
  Several<V> exponentials(const Several<V> &most, int64_t first, int64_t count) {
    Several<V> total{};
    for (int64_t m = first; m < first + count; ++m) {
      Lanes *row = &logits[m * V];
      const auto found = exp2_below_128(each<V>([&](int v) { return row[v] - most[v]; }));
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) row[v] = found[v];
      total = total + found;
    }
    return total;
  }

  // A vector of queries from `first` on, channel by channel; zeros where there are no more.
  void read(const float *queries, int64_t first, int64_t count, Lanes *to, int64_t step) {
    const int64_t there = std::clamp<int64_t>(count - first, 0, LANES);
    if (there == LANES) return gather_columns(queries + first * p.query_step, p.query_step, p.channels, to, step);
    std::fill(some.begin(), some.end(), 0.0f);
    for (int64_t n = 0; n < there; ++n)
      std::copy_n(queries + (first + n) * p.query_step, p.channels, &some[n * p.channels]);
    gather_columns(some.data(), p.channels, p.channels, to, step);
  }

  void write(const Lanes *from, int64_t step, float *out, int64_t out_step, int64_t first, int64_t count) {
    const int64_t there = std::clamp<int64_t>(count - first, 0, LANES);
    if (there == LANES) return scatter_columns(from, p.channels, out + first * out_step, out_step, step);
    scatter_columns(from, p.channels, some.data(), p.channels, step);
    for (int64_t n = 0; n < there; ++n) std::copy_n(&some[n * p.channels], p.channels, out + (first + n) * out_step);
  }

  const Problem &p;
  const float *keys, *values;
  std::vector<Lanes> columns, logits;  // [d, V], [M, V]
  std::vector<float> some;             // [LANES, d]
};

void attend(const Problem &p, const float *queries, const float *keys, const float *values, float *out, int64_t task) {
  const int64_t head = task / p.parts() % p.heads, image = task / p.parts() / p.heads, out_step = p.heads * p.channels;
  const int64_t begin = task % p.parts() * PART, end = std::min(begin + PART, p.queries);
  queries += image * p.queries * p.query_step + head * p.channels;
  out += image * p.queries * out_step + head * p.channels;
  Head one(p, keys + image * p.keys * p.key_step + head * p.channels,
           values + image * p.keys * p.value_step + head * p.channels);
  for (int64_t n = begin; n < end; n += WIDE * LANES) {
    const int64_t count = std::min<int64_t>(WIDE * LANES, end - n);
    const float *from = queries + n * p.query_step;
    if (count > LANES)
      one.attend<WIDE>(from, count, out + n * out_step, out_step);
    else
      one.attend<1>(from, count, out + n * out_step, out_step);
  }
}

}  // namespace

extern "C" {

// queries and out [B, N, heads * d], keys and values [B, M, heads * d]; tokens of all but out lie `step` floats apart, and
// images follow each other without a gap. No size is 0.
void lgrnet_attention(const float *queries, const float *keys, const float *values, float *out, int64_t batch,
                      int64_t heads, int64_t query_count, int64_t key_count, int64_t channels, int64_t query_step,
                      int64_t key_step, int64_t value_step, float scale, int threads) {
  const Problem p{batch, heads, query_count, key_count, channels, query_step, key_step, value_step, scale};
  parallel_for(p.tasks(), threads, [&](int64_t task) { attend(p, queries, keys, values, out, task); });
}
}
