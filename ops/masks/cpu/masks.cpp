// Products of a few queries with the channels at every place of a map, forward, in float32.
//
// The places of a map lie side by side, its channels far apart. A block of WIDE vectors of places goes through all
// channels while the sums of GROUP queries stay in registers: the map is read where it lies, and not laid out anew as for
// a product of large matrices. Lines that will be needed two blocks later are asked for meanwhile: one block earlier is
// too late for those in which two blocks meet.
//
// Every number is summed over the channels in order, whatever stands beside it and however many threads there are.
//
// Letters as in ops/masks/__init__.py: B clips, T frames, Q queries, C channels.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "../../cpu/lanes.h"
#include "../../cpu/threads.h"

namespace {

constexpr int WIDE = 2;
constexpr int GROUP = REGISTERS == 32 ? 10 : 5;
constexpr int64_t BLOCK = WIDE * LANES;
constexpr int64_t BLOCKS = 32;  // of a task
constexpr int LINE = 16;        // floats of a line of the caches

struct Problem {
  int64_t queries, channels, places, channel_step;  // floats from one channel of the features to the next

  int64_t parts() const { return (places + BLOCK * BLOCKS - 1) / (BLOCK * BLOCKS); }
};

// The products of N queries with a block that begins at `map`; weights [C, N]. `ahead` numbers further is what to ask for.
template <int N, bool WHOLE>
LGRNET_INLINE void multiply(const Problem &p, const float *weights, const float *map, int64_t ahead, const int *counts,
                            float *out) {
  Lanes sums[N][WIDE] = {};
  for (int64_t c = 0; c < p.channels; ++c, map += p.channel_step, weights += N) {
    Lanes some[WIDE];
#pragma GCC unroll 2
    for (int v = 0; v < WIDE; ++v) {
      some[v] = load_part(map + v * LANES, WHOLE ? LANES : counts[v]);
      if (v * LANES % LINE == 0) __builtin_prefetch(map + ahead + v * LANES);
    }
#pragma GCC unroll 10
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
      for (int v = 0; v < WIDE; ++v) sums[n][v] += all(weights[n]) * some[v];
  }
  for (int n = 0; n < N; ++n, out += p.places)
    for (int v = 0; v < WIDE; ++v) store_part(out + v * LANES, sums[n][v], WHOLE ? LANES : counts[v]);
}

// All queries: groups of N, and of fewer for those that are left. weights: [C, N] of each group, one after the other.
template <int N, bool WHOLE>
void groups(const Problem &p, int64_t queries, const float *weights, const float *map, int64_t ahead, const int *counts,
            float *out) {
  for (; queries >= N; queries -= N, weights += N * p.channels, out += N * p.places, ahead = 0)
    multiply<N, WHOLE>(p, weights, map, ahead, counts, out);
  if constexpr (N > 1)
    if (queries) groups<N / 2, WHOLE>(p, queries, weights, map, ahead, counts, out);
}

// Queries [Q, C], channel by channel for each group of `groups`.
void lay_out(const Problem &p, const float *queries, float *to) {
  int64_t group = GROUP;
  for (int64_t first = 0; first < p.queries; first += group) {
    while (group > p.queries - first) group /= 2;
    for (int64_t c = 0; c < p.channels; ++c)
      for (int64_t n = 0; n < group; ++n) *to++ = queries[(first + n) * p.channels + c];
  }
}

void multiply_part(const Problem &p, const float *weights, const float *map, int64_t part, float *out) {
  const int64_t begin = part * BLOCK * BLOCKS, end = std::min(begin + BLOCK * BLOCKS, p.places);
  for (int64_t place = begin; place < end; place += BLOCK) {
    const int64_t left = end - place, ahead = left > 2 * BLOCK ? 2 * BLOCK : 0;
    int counts[WIDE];
    for (int v = 0; v < WIDE; ++v) counts[v] = static_cast<int>(std::clamp<int64_t>(left - v * LANES, 0, LANES));
    (left >= BLOCK ? groups<GROUP, true> : groups<GROUP, false>)(p, p.queries, weights, map + place, ahead, counts,
                                                                 out + place);
  }
}

}  // namespace

extern "C" {

// queries [B, Q, C], features [B, T, C, places], of which the places lie side by side and all else so many floats apart,
// and out [B, T, Q, places]. No size is 0.
int lgrnet_mask_logits(const float *queries, const float *features, float *out, int64_t clips, int64_t frames,
                       int64_t count, int64_t channels, int64_t places, int64_t clip_step, int64_t frame_step,
                       int64_t channel_step, int threads) try {
  const Problem p{count, channels, places, channel_step};
  std::vector<float> weights(clips * count * channels);
  for (int64_t clip = 0; clip < clips; ++clip)
    lay_out(p, queries + clip * count * channels, &weights[clip * count * channels]);
  parallel_for(clips * frames * p.parts(), threads, [&](int64_t task) {
    const int64_t map = task / p.parts(), clip = map / frames, frame = map % frames;
    multiply_part(p, &weights[clip * count * channels], features + clip * clip_step + frame * frame_step,
                  task % p.parts(), out + map * count * places);
  });
  return DONE;
} catch (const std::exception &) {
  return NO_MEMORY;
}
}
