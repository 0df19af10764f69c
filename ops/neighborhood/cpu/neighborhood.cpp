// Neighborhood attention between the frames of a clip over all levels of a pyramid, forward and backward, in float32.
//
// The weights of LANES neighbouring queries stay in the nearest cache, and are computed again in the backward pass.
// There, adding their products to the keys one query after the other would load what was just stored a few places
// before, and wait for it; instead the weights of a row of queries are kept, and each block of keys collects its sums
// from them. Sums are always taken in the order of the queries' rows, however the work is divided.
//
// Letters as in ops/neighborhood/__init__.py: B clips, T frames, S tokens, d channels of a head.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "../../cpu/threads.h"
#include "planes.h"

namespace {

using namespace neighborhood;

// Some rows of one level and frame.
struct Task {
  const Level *level;
  int64_t clip, frame, begin, end;
};

LGRNET_INLINE Lanes largest(const std::vector<Lanes> &logits) {
  Lanes most = logits[0];
  for (const Lanes logit : logits) most = logit > most ? logit : most;
  return most;
}

// The window of a row of queries: rows of planes of the keys or the values.
struct Window {
  const Problem &p;
  const Level &level;
  std::vector<const float *> rows;

  // The products of a block of queries [d] with their keys, [window, window].
  template <int D>
  __attribute__((always_inline)) void multiply(const Block &block, const Lanes *q, Lanes *products) const {
    for (const float *row : rows) {
      const float *key = row + block.first;
      for (int64_t i = 0; i < p.window; ++i, key += block.step) {
        Lanes product = q[0] * load(key);
        for (int64_t c = 1; c < (D ? D : p.channels); ++c) product += q[c] * load(key + c * level.plane);
        *products++ = product;
      }
    }
  }

  // The sums [d] of the values, weighted by factor(one of [window, window]).
  template <int D, class Factor>
  __attribute__((always_inline)) void add(const Block &block, const Lanes *weights, Factor factor, Lanes *sums) const {
    const int64_t d = D ? D : p.channels;
    for (int64_t c = 0; c < d; ++c) sums[c] = Lanes{};
    for (const float *row : rows) {
      const float *value = row + block.first;
      for (int64_t i = 0; i < p.window; ++i, value += block.step) {
        const Lanes weight = factor(*weights++);
        for (int64_t c = 0; c < d; ++c) sums[c] += weight * load(value + c * level.plane);
      }
    }
  }
};

template <int D>
class Forward {
 public:
  Forward(const Problem &problem, const Level &of)
      : p(problem), level(of), q_map(p, of), k_map(p, of), v_map(p, of), k_rows(p, of), v_rows(p, of),
        keys{p, of, std::vector<const float *>(p.window)}, values(keys), logits(p.window * p.window),
        spare(2 * p.channels) {}

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
      const float *q = q_map.row(y);
      for (const Block &block : level.blocks) {
        q_map.expect(y + 1, block);
        k_map.expect(ready, block);
        v_map.expect(ready, block);
        attend(block, q + block.begin * p.channels, out + (y * level.lanes + block.begin) * p.channels);
      }
    }
  }

 private:
  void attend(const Block &block, const float *from, float *to) {
    const int64_t d = D ? D : p.channels;
    Lanes fixed_q[D ? D : 1], fixed_sums[D ? D : 1];
    Lanes *q = D ? fixed_q : spare.data(), *sums = D ? fixed_sums : spare.data() + d;
    load_columns<D>(from, block.count, d, q);
    for (int64_t c = 0; c < d; ++c) q[c] *= all(LOG2_E);
    keys.multiply<D>(block, q, logits.data());
    const Lanes most = largest(logits);
    Lanes total{};
    const auto exponential = [&](Lanes logit) __attribute__((always_inline)) {
      const Lanes weight = exp2(logit - most);
      total += weight;
      return weight;
    };
    values.add<D>(block, logits.data(), exponential, sums);
    total = all(1.0f) / total;
    for (int64_t c = 0; c < d; ++c) sums[c] *= total;
    store_columns<D>(to, block.count, d, sums);
  }

  const Problem &p;
  const Level &level;
  Map q_map, k_map, v_map;
  Rows<D> k_rows, v_rows;
  Window keys, values;
  std::vector<Lanes> logits, spare;  // the logits of a block, [window, window]
};

// The rows of a task are those of dq, and the same ones of dk and dv; it computes the weights of all queries that look
// at them.
template <int D>
class Backward {
 public:
  Backward(const Problem &problem, const Level &of)
      : p(problem), level(of), q_map(p, of), dout_map(p, of), k_map(p, of), v_map(p, of), k_rows(p, of), v_rows(p, of),
        dk_rows(p, of), dv_rows(p, of), keys{p, of, std::vector<const float *>(p.window)}, values(keys),
        dkeys(p.window), dvalues(p.window), halo(whole(p.reach() * p.heads)),
        span(2 * halo + whole(of.columns * p.heads) + LANES), q_planes(p.channels * span),
        dout_planes(p.channels * span), weight_planes(p.window * p.window * span),
        dlogit_planes(p.window * p.window * span), weights(p.window * p.window), dlogits(p.window * p.window),
        spare(3 * p.channels) {}

  void run(const Task &task) {
    const int64_t past = p.past(task.frame), row = level.lanes * p.channels;
    q_map.open(p.q, level, task.clip, task.frame);
    dout_map.open(p.dout, level, task.clip, task.frame);
    k_map.open(p.k, level, task.clip, past);
    v_map.open(p.v, level, task.clip, past);
    float *dq = p.dq + p.place(task.clip, task.frame, level.first_token);
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
      row_of_queries(y, ready, y >= task.begin && y < task.end ? dq + y * row : nullptr);
    }
    for (int64_t r = ready - p.span(); r < ready; ++r) finish(r);
  }

 private:
  bool needed(const Task &task, int64_t y) const {
    const int64_t start = level.row_starts[y];
    return start < task.end && start + 2 * p.reach() >= task.begin;
  }

  void row_of_queries(int64_t y, int64_t ready, float *dq) {
    for (int64_t j = 0; j < p.window; ++j) {
      const int64_t r = level.row_starts[y] + j * p.dilation;
      keys.rows[j] = k_rows.row(r);
      values.rows[j] = v_rows.row(r);
      dkeys[j] = dk_rows.row(r);
      dvalues[j] = dv_rows.row(r);
    }
    const float *q = q_map.row(y), *dout = dout_map.row(y);
    for (const Block &block : level.blocks) {
      q_map.expect(y + 1, block);
      dout_map.expect(y + 1, block);
      k_map.expect(ready, block);
      v_map.expect(ready, block);
      const int64_t at = block.begin * p.channels;
      attend(block, q + at, dout + at, dq ? dq + at : nullptr);
    }
    if (level.inner_end == 0) return;
    collect(dkeys, q_planes.data(), dlogit_planes.data());
    collect(dvalues, dout_planes.data(), weight_planes.data());
  }

  void attend(const Block &block, const float *q_from, const float *dout_from, float *dq_to) {
    const int64_t d = D ? D : p.channels;
    Lanes fixed_q[D ? D : 1], fixed_dout[D ? D : 1], fixed_dq[D ? D : 1];
    Lanes *q = D ? fixed_q : spare.data(), *dout = D ? fixed_dout : spare.data() + d;
    Lanes *dq = D ? fixed_dq : spare.data() + 2 * d;
    load_columns<D>(q_from, block.count, d, q);
    keys.multiply<D>(block, q, weights.data());
    load_columns<D>(dout_from, block.count, d, dout);
    values.multiply<D>(block, dout, dlogits.data());
    softmax();
    keys.add<D>(block, dlogits.data(), [](Lanes dlogit) __attribute__((always_inline)) { return dlogit; }, dq);
    if (block.inner)
      keep(block, q, dout);
    else
      spread(block, q, dout);
    if (dq_to) store_columns<D>(dq_to, block.count, d, dq);
  }

  // From the logits the weights, and from the derivatives by the weights those by the logits.
  void softmax() {
    const int64_t count = p.window * p.window;
    Lanes *weight = weights.data(), *dlogit = dlogits.data();
    const Lanes most = largest(weights) * all(LOG2_E);
    Lanes total{}, mean{};
    for (int64_t n = 0; n < count; ++n) {
      weight[n] = exp2(weight[n] * all(LOG2_E) - most);
      total += weight[n];
      mean += weight[n] * dlogit[n];
    }
    total = all(1.0f) / total;
    mean *= total;
    for (int64_t n = 0; n < count; ++n) {
      weight[n] *= total;
      dlogit[n] = weight[n] * (dlogit[n] - mean);
    }
  }

  // What collect needs of an inner block.
  void keep(const Block &block, const Lanes *q, const Lanes *dout) {
    const int64_t d = D ? D : p.channels, at = halo + block.begin;
    for (int64_t c = 0; c < d; ++c) {
      store(q_planes.data() + c * span + at, q[c]);
      store(dout_planes.data() + c * span + at, dout[c]);
    }
    for (int64_t n = 0; n < p.window * p.window; ++n) {
      store(weight_planes.data() + n * span + at, weights[n]);
      store(dlogit_planes.data() + n * span + at, dlogits[n]);
    }
  }

  // The sums of a block at the border are behind the planes, where its keys are.
  void spread(const Block &block, const Lanes *q, const Lanes *dout) {
    const int64_t d = D ? D : p.channels;
    for (int64_t j = 0; j < p.window; ++j)
      for (int64_t i = 0; i < p.window; ++i) {
        const Lanes weight = weights[j * p.window + i], dlogit = dlogits[j * p.window + i];
        float *dkey = dkeys[j] + block.first + i * block.step;
        float *dvalue = dvalues[j] + block.first + i * block.step;
        for (int64_t c = 0; c < d; ++c, dkey += level.plane, dvalue += level.plane) {
          store(dkey, load(dkey) + dlogit * q[c]);
          store(dvalue, load(dvalue) + weight * dout[c]);
        }
      }
  }

  // To the sums of each key of the window's rows, those over the row of queries of factor [window, window] times
  // vector [d]; both are 0 for queries at the border.
  void collect(const std::vector<float *> &rows, const float *vectors, const float *factors) {
    constexpr int C = D == 0 ? 1 : LANES == 16 ? 4 : 2;
    const int64_t d = D ? D : p.channels, near = p.reach() * p.heads;
    for (int64_t n = (level.inner_begin - near) / LANES * LANES; n < level.inner_end + near; n += LANES)
      for (int64_t c = 0; c < d; c += C)
        for (int64_t j = 0; j < p.window;) {
          float *const *from = rows.data() + j;
          const float *vector = vectors + c * span + halo + n, *factor = factors + j * p.window * span + halo + n;
          const int64_t at = c * level.plane + n;
          if (p.window - j >= 5)
            collect_rows<5, C>(from, at, vector, factor), j += 5;
          else if (p.window - j >= 3)
            collect_rows<3, C>(from, at, vector, factor), j += 3;
          else
            collect_rows<1, C>(from, at, vector, factor), j += 1;
        }
  }

  template <int J, int C>
  __attribute__((always_inline)) void collect_rows(float *const *rows, int64_t at, const float *vectors,
                                                   const float *factors) {
    Lanes sums[J][C];
    for (int j = 0; j < J; ++j)
      for (int c = 0; c < C; ++c) sums[j][c] = load(rows[j] + at + c * level.plane);
    for (int64_t i = 0; i < p.window; ++i) {
      const int64_t query = (p.reach() - i * p.dilation) * p.heads;
      Lanes vector[C];
      for (int c = 0; c < C; ++c) vector[c] = load(vectors + c * span + query);
      for (int j = 0; j < J; ++j) {
        const Lanes factor = load(factors + (j * p.window + i) * span + query);
        for (int c = 0; c < C; ++c) sums[j][c] += factor * vector[c];
      }
    }
    for (int j = 0; j < J; ++j)
      for (int c = 0; c < C; ++c) store(rows[j] + at + c * level.plane, sums[j][c]);
  }

  const Problem &p;
  const Level &level;
  Map q_map, dout_map, k_map, v_map;
  Rows<D> k_rows, v_rows, dk_rows, dv_rows;
  Window keys, values;
  std::vector<float *> dkeys, dvalues;
  int64_t halo, span;  // the query at (x, head) is at halo + x * heads + head of the planes below, of this length
  Floats q_planes, dout_planes, weight_planes, dlogit_planes;
  std::vector<Lanes> weights, dlogits, spare;  // the first two of a block, [window, window]
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

template <template <int> class Job>
void for_all(const Problem &p, const int64_t *sides, int64_t count, int threads) {
  std::vector<Level> levels;
  for (int64_t i = 0, first = 0; i < count; ++i, first += levels.back().height * levels.back().width)
    levels.emplace_back(p, sides[2 * i], sides[2 * i + 1], first);
  if (p.channels == 8)
    for_all<Job<8>>(p, levels, threads);
  else if (p.channels == 16)
    for_all<Job<16>>(p, levels, threads);
  else if (p.channels == 32)
    for_all<Job<32>>(p, levels, threads);
  else
    for_all<Job<0>>(p, levels, threads);
}

Input input(const float *data, const int64_t *strides) { return {data, strides[0], strides[1], strides[2]}; }

}  // namespace

extern "C" {

// q, k, v [B, T, S, heads, d] with three strides each, of clips, frames and tokens; out [B, T, S, heads, d]. sides are
// height, width, height, width, ... of the levels; frame t attends to frame t - shift, 0 <= shift < T.
int lgrnet_neighborhood_forward(const float *q, const float *k, const float *v, float *out, const int64_t *strides,
                                const int64_t *sides, int64_t levels, int64_t clips, int64_t frames, int64_t tokens,
                                int64_t heads, int64_t channels, int64_t window, int64_t dilation, int64_t shift,
                                int threads) {
  const Problem p{input(q, strides), input(k, strides + 3), input(v, strides + 6), {}, clips, frames, tokens, heads,
                  channels, window, dilation, shift, out, nullptr, nullptr, nullptr};
  for_all<Forward>(p, sides, levels, threads);
  return 0;
}

// dout with three more strides; dq, dk, dv [B, T, S, heads, d] are written, not added to.
int lgrnet_neighborhood_backward(const float *q, const float *k, const float *v, const float *dout, float *dq,
                                 float *dk, float *dv, const int64_t *strides, const int64_t *sides, int64_t levels,
                                 int64_t clips, int64_t frames, int64_t tokens, int64_t heads, int64_t channels,
                                 int64_t window, int64_t dilation, int64_t shift, int threads) {
  const Problem p{input(q, strides), input(k, strides + 3), input(v, strides + 6), input(dout, strides + 9), clips,
                  frames, tokens, heads, channels, window, dilation, shift, nullptr, dq, dk, dv};
  for_all<Backward>(p, sides, levels, threads);
  return 0;
}
}
