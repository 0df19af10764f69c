// The gradients of the keys and values: sums over the queries that look at them.
//
// Adding the products of one query after the other to its keys would load what was just stored a few places before, and
// wait for it. Instead the weights of some queries are kept, and each block of keys collects its sums from them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "planes.h"

namespace neighborhood {

// Calls step(a number C known to the compiler, the first one) for `first` .. count in parts of C, then in smaller ones.
template <int C, int... SMALLER, class Step>
LGRNET_INLINE void in_parts(int64_t count, Step step, int64_t first = 0) {
  for (; first + C <= count; first += C) step(std::integral_constant<int, C>{}, first);
  if constexpr (sizeof...(SMALLER) > 0) in_parts<SMALLER...>(count, step, first);
}

// A block of queries: q and dout [d]; the weights, and the derivatives by the logits, [column, row] of the window.
struct Query {
  Lanes *q, *dout, *weights, *dlogits;
};

// Vectors that lie `step` floats apart.
struct Series {
  const float *first;
  int64_t step;

  LGRNET_MEMBER Lanes operator[](int64_t i) const { return load(first + i * step); }
};

// Adds to a block of keys, at `at` of some rows, for all channels: vectors(i)[channel] * factors(i)[row] for i < count.
template <class Vectors, class Factors>
LGRNET_INLINE void collect(float *const *rows, int64_t window, int64_t at, int64_t channels, int64_t channel,
                           int64_t count, Vectors vectors, Factors factors) {
  in_parts<REGISTERS == 32 ? 4 : 2, 1>(channels, [&](auto part, int64_t first) LGRNET_MEMBER {
    constexpr int C = decltype(part)::value;
    in_parts<5, 3, 1>(window, [&](auto some, int64_t from) LGRNET_MEMBER {
      constexpr int J = decltype(some)::value;
      float *to[J];
      for (int j = 0; j < J; ++j) to[j] = rows[from + j] + at + first * channel;
      Lanes sums[J][C];
      for (int j = 0; j < J; ++j)
        for (int c = 0; c < C; ++c) sums[j][c] = load(to[j] + c * channel);
      int64_t i = 0;
      do {
        const Series vector = vectors(i), factor = factors(i);
        Lanes v[C];
        for (int c = 0; c < C; ++c) v[c] = vector[first + c];
        for (int j = 0; j < J; ++j) {
          const Lanes f = factor[from + j];
          for (int c = 0; c < C; ++c) sums[j][c] += f * v[c];
        }
      } while (++i < count);
      for (int j = 0; j < J; ++j)
        for (int c = 0; c < C; ++c) store(to[j] + c * channel, sums[j][c]);
    });
  });
}

// Where vectors are of one token. A block of keys collects as soon as the last query that looks at it is done. D channels
// and a window of W where the compiler knows them, else 0.
template <int D, int W>
class TokenSums {
 public:
  std::vector<float *> dkeys, dvalues;  // rows of the window

  TokenSums(const Problem &problem, const Level &level)
      : dkeys(problem.window), dvalues(problem.window), p(problem), users(level.plane / LANES),
        done(level.blocks.size()) {
    const int64_t keys_size = LANES * p.channels;
    for (const Block &block : level.blocks)
      for (int64_t i = 0; i < p.window; ++i)
        users[(block.first + i * block.step) / keys_size].push_back({block.begin / LANES, i});
    for (const auto &of_key : users)
      if (!of_key.empty()) kept = std::max(kept, of_key.back().query - of_key.front().query + 1);
    for (size_t key = 0; key < users.size(); ++key)
      if (!users[key].empty()) done[users[key].back().query].push_back(key);
    for (auto &of_key : users)
      for (User &user : of_key) {
        user.query = user.query % kept * size() * LANES;
        user.place = user.query + user.place * p.window * LANES;
      }
    memory = Floats(kept * size() * LANES);
  }

  Query query(const Block &block) {
    Lanes *of = reinterpret_cast<Lanes *>(memory.data()) + block.begin / LANES % kept * size();
    return {of, of + p.channels, of + 2 * p.channels, of + 2 * p.channels + p.window * p.window};
  }

  void add(const Block &block, const Query &) {
    const int64_t channels = D ? D : p.channels, window = W ? W : p.window;
    const float *q = memory.data(), *dout = q + channels * LANES;
    const float *weights = dout + channels * LANES, *dlogits = weights + window * window * LANES;
    for (const int64_t key : done[block.begin / LANES]) {
      const User *user = users[key].data();
      const auto sum = [&](const std::vector<float *> &rows, const float *vectors, const float *factors) LGRNET_MEMBER {
        collect(rows.data(), window, key * LANES * channels, channels, LANES, users[key].size(),
                [&](int64_t i) LGRNET_MEMBER { return Series{vectors + user[i].query, LANES}; },
                [&](int64_t i) LGRNET_MEMBER { return Series{factors + user[i].place, LANES}; });
      };
      sum(dkeys, q, dlogits);
      sum(dvalues, dout, weights);
    }
  }

  void end_row() {}

 private:
  // A block of queries that looks at a key, and at which place of a row of its windows the key is: first as numbers,
  // then as the floats before what is kept of them.
  struct User {
    int64_t query, place;
  };

  int64_t size() const { return 2 * (p.channels + p.window * p.window); }

  const Problem &p;
  std::vector<std::vector<User>> users;    // of each block of keys
  std::vector<std::vector<int64_t>> done;  // the blocks of keys that each block of queries is the last to look at
  int64_t kept = 1;
  Floats memory{0};  // of so many blocks of queries
};

// Where vectors are of several tokens. The blocks of keys collect at the end of the row of queries.
class PlaneSums {
 public:
  std::vector<float *> dkeys, dvalues;  // rows of the window

  PlaneSums(const Problem &problem, const Level &of)
      : dkeys(problem.window), dvalues(problem.window), p(problem), level(of), halo(whole(p.reach() * p.heads)),
        span(2 * halo + whole(of.columns * p.heads) + LANES), q_planes(p.channels * span),
        dout_planes(p.channels * span), weight_planes(p.window * p.window * span),
        dlogit_planes(p.window * p.window * span), memory(2 * (p.channels + p.window * p.window)) {}

  Query query(const Block &) {
    Lanes *of = memory.data();
    return {of, of + p.channels, of + 2 * p.channels, of + 2 * p.channels + p.window * p.window};
  }

  void add(const Block &block, const Query &query) {
    if (block.inner)
      keep(block, query);
    else
      spread(block, query);
  }

  // To the sums of each key of the window's rows, those over the row of queries; those at the border count as 0 here.
  void end_row() {
    if (level.inner_end == 0) return;
    const int64_t near = p.reach() * p.heads;
    for (int64_t n = (level.inner_begin - near) / LANES * LANES; n < level.inner_end + near; n += LANES) {
      const auto sum = [&](const std::vector<float *> &rows, const float *vectors, const float *factors) LGRNET_MEMBER {
        const int64_t first = halo + n + near, step = p.dilation * p.heads, column = p.window * span;
        collect(rows.data(), p.window, n, p.channels, level.channel, p.window,
                [&](int64_t i) LGRNET_MEMBER { return Series{vectors + first - i * step, span}; },
                [&](int64_t i) LGRNET_MEMBER { return Series{factors + first - i * step + i * column, span}; });
      };
      sum(dkeys, q_planes.data(), dlogit_planes.data());
      sum(dvalues, dout_planes.data(), weight_planes.data());
    }
  }

 private:
  // What end_row needs of an inner block.
  void keep(const Block &block, const Query &query) {
    const int64_t at = halo + block.begin;
    for (int64_t c = 0; c < p.channels; ++c) {
      store(q_planes.data() + c * span + at, query.q[c]);
      store(dout_planes.data() + c * span + at, query.dout[c]);
    }
    for (int64_t n = 0; n < p.window * p.window; ++n) {
      store(weight_planes.data() + n * span + at, query.weights[n]);
      store(dlogit_planes.data() + n * span + at, query.dlogits[n]);
    }
  }

  // The sums of a block at the border are behind the planes, where its keys are.
  void spread(const Block &block, const Query &query) {
    for (int64_t j = 0; j < p.window; ++j)
      for (int64_t i = 0; i < p.window; ++i) {
        const Lanes weight = query.weights[i * p.window + j], dlogit = query.dlogits[i * p.window + j];
        float *dkey = dkeys[j] + block.first + i * block.step;
        float *dvalue = dvalues[j] + block.first + i * block.step;
        for (int64_t c = 0; c < p.channels; ++c, dkey += level.channel, dvalue += level.channel) {
          store(dkey, load(dkey) + dlogit * query.q[c]);
          store(dvalue, load(dvalue) + weight * query.dout[c]);
        }
      }
  }

  const Problem &p;
  const Level &level;
  int64_t halo, span;  // the query at (x, head) is at halo + x * heads + head of the planes below, of this length
  Floats q_planes, dout_planes, weight_planes, dlogit_planes;
  std::vector<Lanes> memory;  // of a block of queries
};

}  // namespace neighborhood
