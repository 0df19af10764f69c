// Multi-head attention of tokens, forward, in float32, or in bfloat16 with sums and softmax in float32.
//
// A task is some queries of one head of one image. It takes a few vectors of queries at a time, their channels one
// below the other: then softmax needs no sum across a vector, keys and values are read where they lie, one number for
// all queries, and the logits stay in the nearest cache between the two products. A product holds ROWS x V vectors in
// registers. What a task is never depends on the number of threads.
//
// Of bfloat16 a lane holds two channels of a query, and then the weights of two keys: half as many steps, of the same
// kind. The values of two keys are laid side by side for that. With products of whole matrices the same vectors are
// columns of theirs, and keys and values are copied into rows that fill them.
//
// Letters as in ops/attention/__init__.py: B images, N queries, M keys, d channels of each head.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <type_traits>
#include <vector>

#include "../../cpu/matrices.h"
#include "../../cpu/threads.h"
#include "../../cpu/transpose.h"

namespace {

constexpr int WIDE = 3;                       // vectors of queries at once, at most
constexpr int ROWS = 4;                       // keys or channels at once
constexpr int64_t KEYS = 256;                 // keys whose shares are summed up by themselves: long sums lose digits
constexpr int64_t MANY = 64;                  // queries for which it is worth the while to lay out whole matrices
constexpr int64_t PART = 64 * WIDE * LANES;   // queries of a task, at most

struct Problem {
  int64_t batch, heads, queries, keys, channels;   // channels of one head
  int64_t query_step, key_step, value_step;        // numbers from one token to the next
  float scale;
  bool by_matrices;  // of bfloat16, by a processor that multiplies them whole

  int64_t parts() const { return (queries + PART - 1) / PART; }
  int64_t tasks() const { return batch * heads * parts(); }
};

// Calls use(r, v, sum) for the product of R rows of `depth` floats, each of PER_LANE<T> numbers, which begin row_step
// apart and go on in steps of their own, with `panel` [depth, V].
template <class T, int R, int V, class Use>
LGRNET_INLINE void multiply(const float *rows, int64_t row_step, int64_t step, const Lanes *panel, int64_t depth,
                            Use use) {
  Lanes sums[R][V] = {};
  for (int64_t k = 0; k < depth; ++k, rows += step, panel += V)
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Lanes one = all(rows[r * row_step]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = add_product<T>(sums[r][v], one, panel[v]);
    }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) use(r, v, sums[r][v]);
}

// The same for any number of rows; r goes on over all of them.
template <class T, int V, class Use>
LGRNET_INLINE void multiply_all(int64_t count, const float *rows, int64_t row_step, int64_t step, const Lanes *panel,
                                int64_t depth, Use use) {
  int64_t first = 0;
  for (; first + ROWS <= count; first += ROWS)
    multiply<T, ROWS, V>(rows + first * row_step, row_step, step, panel, depth,
                         [&](int r, int v, Lanes sum) LGRNET_MEMBER { use(first + r, v, sum); });
  for (; first < count; ++first)
    multiply<T, 1, V>(rows + first * row_step, row_step, step, panel, depth,
                      [&](int r, int v, Lanes sum) LGRNET_MEMBER { use(first + r, v, sum); });
}

// The product of TILE rows, which begin row_step floats apart, with `panel` [depth, V]: `out` [TILE, V]. The depth is
// one of whole tiles.
template <int V>
LGRNET_INLINE void multiply_matrices(const float *rows, int64_t row_step, const Lanes *panel, int64_t depth,
                                     Lanes *out) {
  clear_tile<0>(), clear_tile<1>(), clear_tile<2>();
  for (int64_t k = 0; k < depth; k += TILE, panel += TILE * V) {
    load_tile<3>(rows + k, row_step);
    load_tile<4>(panel, V * LANES);
    multiply_tiles<0, 3, 4>();
    if constexpr (V > 1) load_tile<5>(panel + 1, V * LANES), multiply_tiles<1, 3, 5>();
    if constexpr (V > 2) load_tile<6>(panel + 2, V * LANES), multiply_tiles<2, 3, 6>();
  }
  float *to = reinterpret_cast<float *>(out);
  store_tile<0>(to, V * LANES);
  if constexpr (V > 1) store_tile<1>(to + LANES, V * LANES);
  if constexpr (V > 2) store_tile<2>(to + 2 * LANES, V * LANES);
}

// One head of one image.
template <class T>
class Head {
 public:
  Head(const Problem &problem, const T *keys_of, const T *values_of)
      : p(problem), depth(p.channels / N), keys(reinterpret_cast<const float *>(keys_of)), values(values_of),
        columns((p.channels + 2 * TILE) * WIDE), logits((p.keys + 2 * TILE) * WIDE), some(LANES * depth) {
    if constexpr (N == 2) lay_side_by_side();
    if (by_matrices()) fill_matrices();
  }

  // out [count, d] of up to V * LANES queries.
  template <int V>
  void attend(const T *queries, int64_t count, T *out, int64_t out_step) {
    for (int v = 0; v < V; ++v) read(queries, v * LANES, count, &columns[v], V);
    Several<V> most = each<V>([](int) { return all(-std::numeric_limits<float>::infinity()); });
    const Lanes factor = all(p.scale * LOG2_E);
    if constexpr (N == 1)
      for (int64_t i = 0; i < depth * V; ++i) columns[i] *= factor;
    if (by_matrices()) {
      multiply_keys<V>();
      for (int64_t m = 0; m < p.keys; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) most[v] = at_least(logits[m * V + v], most[v]);
    } else {
      multiply_all<T, V>(p.keys, keys, p.key_step / N, 1, columns.data(), depth,
                         [&](int64_t m, int v, Lanes sum) LGRNET_MEMBER {
                           logits[m * V + v] = sum;
                           most[v] = at_least(sum, most[v]);
                         });
    }
    if constexpr (N == 2) most = most * factor;
    std::fill(columns.begin(), columns.end(), Lanes{});
    Several<V> total{};
    for (int64_t first = 0; first < p.keys; first += KEYS) {
      const int64_t keys_here = std::min(KEYS, p.keys - first);
      total = total + exponentials(most, factor, first, keys_here);
      if (by_matrices())
        add_values<V>(first, keys_here);
      else
        multiply_all<T, V>(p.channels, value_rows(first), 1, value_step(), &logits[first * V], (keys_here + N - 1) / N,
                           [&](int64_t c, int v, Lanes sum) LGRNET_MEMBER { columns[c * V + v] += sum; });
    }
    const auto share = each<V>([&](int v) { return all(1.0f) / total[v]; });
    for (int64_t c = 0; c < p.channels; ++c)
      for (int v = 0; v < V; ++v) columns[c * V + v] *= share[v];
    if constexpr (N == 2)
      for (int64_t i = 0; i < depth; ++i)
        for (int v = 0; v < V; ++v) columns[i * V + v] = pairs(columns[2 * i * V + v], columns[(2 * i + 1) * V + v]);
    for (int v = 0; v < V; ++v) write(&columns[v], V, out, out_step, v * LANES, count);
  }

 private:
  static constexpr int64_t N = PER_LANE<T>;

  bool by_matrices() const { return N == 2 && p.by_matrices; }

  // Softmax's numerators in place of `count` logits, those of N keys in one vector; returns their sums. `most` is of
  // base 2, as logits of float32 are; those of bfloat16 become so by `factor`.
  template <int V>
  Several<V> exponentials(const Several<V> &most, Lanes factor, int64_t first, int64_t count) {
    Several<V> total{}, before{};
    for (int64_t m = 0; m < count; ++m) {
      const Lanes *row = &logits[(first + m) * V];
      const auto found = exp2_below_128(each<V>([&](int v) { return (N == 1 ? row[v] : row[v] * factor) - most[v]; }));
      total = total + found;
      Lanes *to = &logits[first * V + m / N * V];
      if (N == 1 || m % 2 == 1 || m + 1 == count)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
          to[v] = N == 1 ? found[v] : m % 2 ? pairs(before[v], found[v]) : pairs(found[v], Lanes{});
      before = found;
    }
    return total;
  }

  // Values that belong to the keys from `first` on, and the floats from those of one vector of weights to the next.
  const float *value_rows(int64_t first) const {
    if constexpr (N == 2) return side_by_side.data() + first / N * p.channels;
    return reinterpret_cast<const float *>(values + first * p.value_step);
  }
  int64_t value_step() const { return N == 1 ? p.value_step : p.channels; }

  // [M / 2, d] pairs of the values of two keys; of the last one, if it is alone, with zeros.
  void lay_side_by_side() {
    side_by_side.resize((p.keys + 1) / 2 * p.channels);
    const std::vector<T> none(p.channels);
    for (int64_t m = 0; m < p.keys; m += 2) {
      const T *one = values + m * p.value_step, *other = m + 1 < p.keys ? one + p.value_step : none.data();
      T *to = reinterpret_cast<T *>(&side_by_side[m / 2 * p.channels]);
      for (int64_t c = 0; c < p.channels; ++c) to[2 * c] = one[c], to[2 * c + 1] = other[c];
    }
  }

  // Keys [M, d / 2] and values [d, M / 2], pairs of channels and of keys, with zeros where matrices are not filled.
  void fill_matrices() {
    const int64_t wide = whole_tiles(depth), pairs_of_keys = (p.keys + 1) / 2, long_rows = whole_tiles(pairs_of_keys);
    key_rows.resize(whole_tiles(p.keys) * wide);
    for (int64_t m = 0; m < p.keys; ++m) std::copy_n(keys + m * (p.key_step / 2), depth, &key_rows[m * wide]);
    side_by_side.resize(long_rows * p.channels);
    value_columns.resize(whole_tiles(p.channels) * long_rows / LANES);
    for (int64_t m = 0; m < long_rows; m += LANES)
      gather_columns(&side_by_side[m * p.channels], p.channels, p.channels, &value_columns[m / LANES],
                     long_rows / LANES);
  }

  template <int V>
  void multiply_keys() {
    const int64_t wide = whole_tiles(depth);
    std::fill_n(&columns[depth * V], (wide - depth) * V, Lanes{});
    for (int64_t m = 0; m < p.keys; m += TILE)
      multiply_matrices<V>(&key_rows[m * wide], wide, columns.data(), wide, &logits[m * V]);
  }

  template <int V>
  void add_values(int64_t first, int64_t count) {
    const int64_t weights = (count + 1) / 2, long_rows = whole_tiles((p.keys + 1) / 2);
    std::fill_n(&logits[(first + weights) * V], (whole_tiles(weights) - weights) * V, Lanes{});
    Lanes sums[TILE * V];
    for (int64_t c = 0; c < p.channels; c += TILE) {
      const float *rows = reinterpret_cast<const float *>(&value_columns[c * long_rows / LANES]) + first / 2;
      multiply_matrices<V>(rows, long_rows, &logits[first * V], whole_tiles(weights), sums);
      for (int64_t i = 0; i < std::min<int64_t>(TILE, p.channels - c) * V; ++i) columns[c * V + i] += sums[i];
    }
  }

  // A vector of queries from `first` on, channel by channel; zeros where there are no more.
  void read(const T *queries, int64_t first, int64_t count, Lanes *to, int64_t step) {
    const int64_t there = std::clamp<int64_t>(count - first, 0, LANES);
    const float *from = reinterpret_cast<const float *>(queries + first * p.query_step);
    if (there == LANES) return gather_columns(from, p.query_step / N, depth, to, step);
    std::fill(some.begin(), some.end(), 0.0f);
    for (int64_t n = 0; n < there; ++n) std::copy_n(from + n * (p.query_step / N), depth, &some[n * depth]);
    gather_columns(some.data(), depth, depth, to, step);
  }

  void write(const Lanes *from, int64_t step, T *out, int64_t out_step, int64_t first, int64_t count) {
    const int64_t there = std::clamp<int64_t>(count - first, 0, LANES);
    float *to = reinterpret_cast<float *>(out + first * out_step);
    if (there == LANES) return scatter_columns(from, depth, to, out_step / N, step);
    scatter_columns(from, depth, some.data(), depth, step);
    for (int64_t n = 0; n < there; ++n) std::copy_n(&some[n * depth], depth, to + n * (out_step / N));
  }

  const Problem &p;
  const int64_t depth;                // floats of a token's channels
  const float *keys;
  const T *values;
  std::vector<Lanes> columns, logits;  // [d, V], [M, V]
  std::vector<float> some;             // [LANES, depth]
  std::vector<float> side_by_side;
  std::vector<float> key_rows;        // [M, d / 2], and
  std::vector<Lanes> value_columns;   // [d, M / 2], up to whole tiles
};

template <class T>
void attend(const Problem &p, const T *queries, const T *keys, const T *values, T *out, int64_t task) {
  const int64_t head = task / p.parts() % p.heads, image = task / p.parts() / p.heads, out_step = p.heads * p.channels;
  const int64_t begin = task % p.parts() * PART, end = std::min(begin + PART, p.queries);
  queries += image * p.queries * p.query_step + head * p.channels;
  out += image * p.queries * out_step + head * p.channels;
  std::optional<Tiles> tiles;
  if (p.by_matrices) tiles.emplace();
  Head<T> one(p, keys + image * p.keys * p.key_step + head * p.channels,
              values + image * p.keys * p.value_step + head * p.channels);
  for (int64_t n = begin; n < end; n += WIDE * LANES) {
    const int64_t count = std::min<int64_t>(WIDE * LANES, end - n);
    const T *from = queries + n * p.query_step;
    T *to = out + n * out_step;
    if (count > 2 * LANES)
      one.template attend<WIDE>(from, count, to, out_step);
    else if (count > LANES)
      one.template attend<2>(from, count, to, out_step);
    else
      one.template attend<1>(from, count, to, out_step);
  }
}

}  // namespace

extern "C" {

// queries and out [B, N, heads * d], keys and values [B, M, heads * d] are of float or, if `bfloat16` is not 0, of
// BFloat16: then d and all steps are even. Tokens of all but out lie `step` numbers apart, and images follow each other
// without a gap. No size is 0. by_matrices: of BFloat16, not 0 where the processor has AMX and lgrnet_bfloat16 has asked
// for it.
int lgrnet_attention(const void *queries, const void *keys, const void *values, void *out, int64_t batch,
                     int64_t heads, int64_t query_count, int64_t key_count, int64_t channels, int64_t query_step,
                     int64_t key_step, int64_t value_step, int64_t bfloat16, int64_t by_matrices, float scale,
                     int threads) try {
  const Problem p{batch,      heads,    query_count, key_count, channels,
                  query_step, key_step, value_step,  scale,     bfloat16 && by_matrices && query_count >= MANY};
  const auto run = [&](auto *to) {
    using From = const std::decay_t<decltype(*to)> *;
    parallel_for(p.tasks(), threads, [&](int64_t task) {
      attend(p, static_cast<From>(queries), static_cast<From>(keys), static_cast<From>(values), to, task);
    });
  };
  bfloat16 ? run(static_cast<BFloat16 *>(out)) : run(static_cast<float *>(out));
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
