// Neighborhood attention between the frames of a clip over all levels of a pyramid, forward and backward, in float32.
//
// A block is LANES neighbouring (x, head). Its weights stay in the nearest cache, and are computed again in the
// backward pass. planes.h says how keys and values lie in memory, sums.h how their gradients are summed: always in the
// order of the queries' rows, however the work is divided. ONE_TOKEN: no vector holds heads of two tokens, as with the
// 8 heads of LGRNet.
//
// Letters as in ops/neighborhood/__init__.py: B clips, T frames, S tokens, d channels of a head.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

// Also with AVX-512: vectors of two tokens' heads would begin in the middle of a line of the caches at every other key.
// What has longer ones there is in pairs.h.
#if defined(__AVX2__)
#define LGRNET_LANES 8
#endif

#include "../../cpu/threads.h"
#include "pairs.h"
#include "planes.h"
#include "sums.h"

namespace {

using namespace neighborhood;

// Some rows of one level and frame.
struct Task {
  const Level *level;
  int64_t clip, frame, begin, end;
};

// The window of a row of queries: rows of the keys or the values. D channels and a window of W where the compiler knows
// them, else 0.
template <bool ONE_TOKEN, int D, int W>
struct Window {
  const Problem &p;
  const Level &level;
  std::vector<const float *> rows;

  int64_t channels() const { return D ? D : p.channels; }
  int64_t window() const { return W ? W : p.window; }

  // The products of a block of queries [d] with its keys, times scale, [column, row]. Returns the largest ones.
  LGRNET_MEMBER Lanes multiply(const Block &block, const Lanes *queries, float scale, Lanes *products) const {
    const int64_t channel = ONE_TOKEN ? LANES : level.channel;
    Lanes most;
    in_parts<8, 4, 1>(channels(), [&](auto part, int64_t first) LGRNET_MEMBER {
      constexpr int C = decltype(part)::value;
      Lanes q[C];
      for (int c = 0; c < C; ++c) q[c] = queries[first + c] * all(scale);
      most = all(-std::numeric_limits<float>::infinity());
      int64_t key = block.first + first * channel;
      Lanes *column = products;
      for (int64_t i = 0; i < window(); ++i, key += block.step, column += window())
        // Some rows side by side: a product of one key waits for the one before.
        in_parts<5, 3, 1>(window(), [&](auto some, int64_t from) LGRNET_MEMBER {
          constexpr int J = decltype(some)::value;
          Lanes sums[J];
          for (int j = 0; j < J; ++j) sums[j] = first ? column[from + j] : Lanes{};
          for (int c = 0; c < C; ++c)
            for (int j = 0; j < J; ++j) sums[j] += q[c] * load(rows[from + j] + key + c * channel);
          for (int j = 0; j < J; ++j) {
            column[from + j] = sums[j];
            most = at_least(most, sums[j]);
          }
        });
    });
    return most;
  }

  // From logits to base 2 their exponentials, less the largest logit. Calls use(which one, the exponential) for each.
  template <class Use>
  LGRNET_MEMBER void exponentials(Lanes *weights, Lanes most, Use use) const {
    in_parts<5, 3, 1>(window() * window(), [&](auto part, int64_t first) LGRNET_MEMBER {
      constexpr int N = decltype(part)::value;
      const auto e = exp2_below_128(each<N>([&](int i) { return weights[first + i] - most; }));
      for (int i = 0; i < N; ++i) {
        weights[first + i] = e[i];
        use(first + i, e[i]);
      }
    });
  }

  // The sums [d] of the values with weights [column, row]. Returns the sum of the weights.
  LGRNET_MEMBER Lanes add(const Block &block, const Lanes *weights, Lanes *sums) const {
    const int64_t channel = ONE_TOKEN ? LANES : level.channel;
    Lanes total;
    in_parts<8, 4, 1>(channels(), [&](auto part, int64_t first) LGRNET_MEMBER {
      constexpr int C = decltype(part)::value;
      Lanes sum[C];
      for (int c = 0; c < C; ++c) sum[c] = Lanes{};
      total = Lanes{};
      int64_t value = block.first + first * channel;
      const Lanes *weight = weights;
      for (int64_t i = 0; i < window(); ++i, value += block.step)
        for (int64_t j = 0; j < window(); ++j, ++weight) {
          for (int c = 0; c < C; ++c) sum[c] += *weight * load(rows[j] + value + c * channel);
          total += *weight;
        }
      for (int c = 0; c < C; ++c) sums[first + c] = sum[c];
    });
    return total;
  }
};

// N vectors, or as many as asked for where N is 0. The compiler may keep those of a known number in registers.
template <int N>
struct Vectors {
  alignas(CACHE_LINE * sizeof(float)) Lanes v[N];

  explicit Vectors(int64_t) {}
  Lanes *data() { return v; }
};
template <>
struct Vectors<0> : std::vector<Lanes> {
  using std::vector<Lanes>::vector;
};

template <bool ONE_TOKEN, int D, int W>
class Forward {
 public:
  Forward(const Problem &problem, const Level &of)
      : p(problem), level(of), q_map(p, of), k_map(p, of), v_map(p, of), k_rows(p, of), v_rows(p, of),
        keys{p, of, std::vector<const float *>(p.window)}, values(keys), weights(p.window * p.window),
        transpose(p.channels) {}

  void run(const Task &task) {
    q_map.open(p.q, level, task.clip, task.frame);
    k_map.open(p.k, level, task.clip, p.past(task.frame));
    v_map.open(p.v, level, task.clip, p.past(task.frame));
    float *out = p.out + p.place(task.clip, task.frame, level.first_token);
    int64_t ready = *std::min_element(&level.row_starts[task.begin], &level.row_starts[task.end]);
    for (int64_t y = task.begin; y < task.end; ++y) {
      const int64_t start = level.row_starts[y];
      for (; ready <= start + 2 * p.reach(); ++ready) {
        k_rows.read(k_map, ready);
        v_rows.read(v_map, ready);
      }
      for (int64_t j = 0; j < p.window; ++j) {
        keys.rows[j] = k_rows.row(start + j * p.dilation);
        values.rows[j] = v_rows.row(start + j * p.dilation);
      }
      row_of_queries(y, ready, out + y * level.lanes * p.channels);
    }
  }

 private:
  void row_of_queries(int64_t y, int64_t ready, float *to) {
    Vectors<D> q(p.channels), sums(p.channels);
    const float *queries = q_map.row(y);
    for (const Block &block : level.blocks) {
      q_map.expect(y + 1, block);
      k_map.expect(ready, block);
      v_map.expect(ready, block);
      q_map.columns(queries, block, q.data());
      attend(block, q.data(), sums.data());
      transpose.store(sums.data(), block.count, to + block.begin * p.channels);
    }
  }

  // The output [d] of a block of queries [d].
  LGRNET_MEMBER void attend(const Block &block, const Lanes *q, Lanes *out) {
#if defined(__AVX512F__)
    if constexpr (D == 8 && W == 5)
      return neighborhood::attend({keys.rows.data(), block.first, block.step},
                                  {values.rows.data(), block.first, block.step}, q, out);
#endif
    const Lanes most = keys.multiply(block, q, LOG2_E, weights.data());
    keys.exponentials(weights.data(), most, [](int64_t, Lanes) LGRNET_MEMBER {});
    const Lanes share = all(1.0f) / values.add(block, weights.data(), out);
    for (int64_t c = 0; c < keys.channels(); ++c) out[c] *= share;
  }

  const Problem &p;
  const Level &level;
  Map<D> q_map, k_map, v_map;
  Rows<D> k_rows, v_rows;
  Window<ONE_TOKEN, D, W> keys, values;
  Vectors<W * W> weights;  // [column, row]
  Transpose<D> transpose;
};

// The rows of a task are those of dq, and the same ones of dk and dv; it computes the weights of all queries that look
// at them.
template <bool ONE_TOKEN, int D, int W>
class Backward {
 public:
  Backward(const Problem &problem, const Level &of)
      : p(problem), level(of), q_map(p, of), dout_map(p, of), k_map(p, of), v_map(p, of), k_rows(p, of), v_rows(p, of),
        dk_rows(p, of), dv_rows(p, of), keys{p, of, std::vector<const float *>(p.window)}, values(keys),
        key_sums(p, of), transpose(p.channels) {}

  void run(const Task &task) {
    const int64_t past = p.past(task.frame), row = level.lanes * p.channels;
    q_map.open(p.q, level, task.clip, task.frame);
    dout_map.open(p.dout, level, task.clip, task.frame);
    k_map.open(p.k, level, task.clip, past);
    v_map.open(p.v, level, task.clip, past);
    float *to = p.dq + p.place(task.clip, task.frame, level.first_token);
    const int64_t there = p.place(task.clip, past, level.first_token);
    int64_t first = level.rows;
    for (int64_t y = 0; y < level.height; ++y)
      if (needed(task, y)) first = std::min(first, level.row_starts[y]);
    int64_t ready = first;
    const auto finish = [&](int64_t r) {
      if (r < first || r < task.begin || r >= task.end) return;
      dk_rows.write(p.dk + there + r * row, r);
      dv_rows.write(p.dv + there + r * row, r);
    };
    for (int64_t y = 0; y < level.height; ++y) {
      if (!needed(task, y)) continue;
      for (; ready <= level.row_starts[y] + 2 * p.reach(); ++ready) {
        finish(ready - p.span());
        k_rows.read(k_map, ready);
        v_rows.read(v_map, ready);
        dk_rows.clear(ready);
        dv_rows.clear(ready);
      }
      row_of_queries(y, ready, y >= task.begin && y < task.end ? to + y * row : nullptr);
    }
    for (int64_t r = ready - p.span(); r < ready; ++r) finish(r);
  }

 private:
  bool needed(const Task &task, int64_t y) const {
    const int64_t start = level.row_starts[y];
    return start < task.end && start + 2 * p.reach() >= task.begin;
  }

  void row_of_queries(int64_t y, int64_t ready, float *to) {
    for (int64_t j = 0; j < p.window; ++j) {
      const int64_t r = level.row_starts[y] + j * p.dilation;
      keys.rows[j] = k_rows.row(r);
      values.rows[j] = v_rows.row(r);
      key_sums.dkeys[j] = dk_rows.row(r);
      key_sums.dvalues[j] = dv_rows.row(r);
    }
    Vectors<D> dq(p.channels);
    const float *q = q_map.row(y), *dout = dout_map.row(y);
    for (const Block &block : level.blocks) {
      q_map.expect(y + 1, block);
      dout_map.expect(y + 1, block);
      k_map.expect(ready, block);
      v_map.expect(ready, block);
      const Query query = key_sums.query(block);
      q_map.columns(q, block, query.q);
      const Lanes most = keys.multiply(block, query.q, LOG2_E, query.weights);
      dout_map.columns(dout, block, query.dout);
      values.multiply(block, query.dout, 1.0f, query.dlogits);
      // From the logits the weights, and from the derivatives by the weights those by the logits.
      Lanes total{}, mean{};
      keys.exponentials(query.weights, most, [&](int64_t n, Lanes weight) LGRNET_MEMBER {
        total += weight;
        mean += weight * query.dlogits[n];
      });
      total = all(1.0f) / total;
      mean *= total;
      for (int64_t n = 0; n < keys.window() * keys.window(); ++n) {
        query.weights[n] *= total;
        query.dlogits[n] = query.weights[n] * (query.dlogits[n] - mean);
      }
      keys.add(block, query.dlogits, dq.data());
      key_sums.add(block, query);
      if (to) transpose.store(dq.data(), block.count, to + block.begin * p.channels);
    }
    key_sums.end_row();
  }

  const Problem &p;
  const Level &level;
  Map<D> q_map, dout_map, k_map, v_map;
  Rows<D> k_rows, v_rows, dk_rows, dv_rows;
  Window<ONE_TOKEN, D, W> keys, values;
  std::conditional_t<ONE_TOKEN, TokenSums<D, W>, PlaneSums> key_sums;
  Transpose<D> transpose;
};

// All rows of all levels, frames and clips, the largest levels first.
template <class Job>
void for_all(const Problem &p, const std::vector<Level> &levels, int threads) {
  std::vector<const Level *> order;
  for (const Level &level : levels) order.push_back(&level);
  std::stable_sort(order.begin(), order.end(), [](const Level *a, const Level *b) {
    return a->height * a->width > b->height * b->width;
  });
  // Parts of a frame, where there are too few frames for the threads; not too small ones, since what borders on a part
  // is done twice.
  const int64_t wanted = threads > 1 ? (2 * threads - 1) / (p.clips * p.frames) + 1 : 1;
  std::vector<Task> tasks;
  for (const Level *level : order) {
    const int64_t parts = std::min(wanted, std::max<int64_t>(level->height / (2 * p.span()), 1));
    for (int64_t i = 0; level->width > 0 && i < p.clips * p.frames * parts; ++i) {
      const int64_t part = i % parts, frame = i / parts;
      const int64_t begin = part * level->height / parts, end = (part + 1) * level->height / parts;
      if (begin < end) tasks.push_back({level, frame / p.frames, frame % p.frames, begin, end});
    }
  }
  std::atomic<size_t> next{0};
  parallel_for(std::max(threads, 1), threads, [&](int64_t) {
    std::unique_ptr<Job> job;
    const Level *of = nullptr;
    for (size_t i; (i = next.fetch_add(1)) < tasks.size();) {
      if (tasks[i].level != of) job = std::make_unique<Job>(p, *(of = tasks[i].level));
      job->run(tasks[i]);
    }
  });
}

std::vector<Level> levels_of(const Problem &p, const int64_t *sides, int64_t count) {
  std::vector<Level> levels;
  for (int64_t i = 0, first = 0; i < count; ++i, first += levels.back().height * levels.back().width)
    levels.emplace_back(p, sides[2 * i], sides[2 * i + 1], first);
  return levels;
}

template <template <bool, int, int> class Job>
void run(const Problem &p, const std::vector<Level> &levels, int threads) {
  if constexpr (LANES == 8)  // LGRNet's sizes
    if (p.one_token() && p.channels == 8 && p.window == 5) return for_all<Job<true, 8, 5>>(p, levels, threads);
  if (p.one_token()) return for_all<Job<true, 0, 0>>(p, levels, threads);
  for_all<Job<false, 0, 0>>(p, levels, threads);
}

Input input(const float *data, const int64_t *strides) { return {data, strides[0], strides[1], strides[2]}; }

}  // namespace

extern "C" {

// q, k, v [B, T, S, heads, d] with three strides each, of clips, frames and tokens; out [B, T, S, heads, d]. sides are
// height, width, height, width, ... of the levels; frame t attends to frame t - shift, 0 <= shift < T.
int lgrnet_neighborhood_forward(const float *q, const float *k, const float *v, float *out, const int64_t *strides,
                                const int64_t *sides, int64_t levels, int64_t clips, int64_t frames, int64_t tokens,
                                int64_t heads, int64_t channels, int64_t window, int64_t dilation, int64_t shift,
                                int threads) try {
  const Problem p{input(q, strides), input(k, strides + 3), input(v, strides + 6), {}, clips, frames, tokens, heads,
                  channels, window, dilation, shift, out, nullptr, nullptr, nullptr};
  run<Forward>(p, levels_of(p, sides, levels), threads);
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}

// dout with three more strides; dq, dk, dv [B, T, S, heads, d] are written, not added to.
int lgrnet_neighborhood_backward(const float *q, const float *k, const float *v, const float *dout, float *dq,
                                 float *dk, float *dv, const int64_t *strides, const int64_t *sides, int64_t levels,
                                 int64_t clips, int64_t frames, int64_t tokens, int64_t heads, int64_t channels,
                                 int64_t window, int64_t dilation, int64_t shift, int threads) try {
  const Problem p{input(q, strides), input(k, strides + 3), input(v, strides + 6), input(dout, strides + 9), clips,
                  frames, tokens, heads, channels, window, dilation, shift, nullptr, dq, dk, dv};
  run<Backward>(p, levels_of(p, sides, levels), threads);
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
