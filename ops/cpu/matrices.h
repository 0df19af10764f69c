// Products of whole matrices of bfloat16, by processors that hold some in tiles (AMX; level.cpp says which have it).
#pragma once

#include "bfloat16.h"

constexpr int TILE = LANES;  // rows of a tile, each of so many floats or pairs of bfloat16

constexpr int64_t whole_tiles(int64_t size) { return (size + TILE - 1) / TILE * TILE; }

#if LGRNET_LANES == 16 && !defined(LGRNET_EMULATED)
// Eight whole tiles, of this thread, while it lives.
class Tiles {
 public:
  Tiles() {
    static constexpr Shapes SHAPES = {
        1, 0, {}, {64, 64, 64, 64, 64, 64, 64, 64}, {}, {16, 16, 16, 16, 16, 16, 16, 16}, {}};
    asm volatile("ldtilecfg %0" : : "m"(SHAPES));
  }
  ~Tiles() { asm volatile("tilerelease"); }
  Tiles(const Tiles &) = delete;

 private:
  struct Shapes {
    uint8_t palette, first_row, none[14];
    uint16_t bytes[8], no_bytes[8];
    uint8_t rows[8], no_rows[8];
  };
};

template <int T>
LGRNET_INLINE void clear_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(T));
}

// Rows lie `step` floats apart.
template <int T>
LGRNET_INLINE void load_tile(const void *first, int64_t step) {
  asm volatile("tileloadd (%0,%1,4), %%tmm%c2" : : "r"(first), "r"(step), "i"(T) : "memory");
}

template <int T>
LGRNET_INLINE void store_tile(float *first, int64_t step) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,4)" : : "r"(first), "r"(step), "i"(T) : "memory");
}

// SUM += A B: pairs of a row of A with those of a column of B, where a row of B holds those of all its columns.
template <int SUM, int A, int B>
LGRNET_INLINE void multiply_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUM), "i"(A), "i"(B));
}
#else
// In plain C++, so that the sources are one; no processor takes it for the faster way, and it need not be fast.
inline thread_local Lanes tiles_of_thread[8][TILE];

struct Tiles {
  Tiles() {}
};

template <int T>
__attribute__((noinline)) void clear_tile() {
  for (Lanes &row : tiles_of_thread[T]) row = Lanes{};
}

template <int T>
__attribute__((noinline)) void load_tile(const void *first, int64_t step) {
  for (int r = 0; r < TILE; ++r) tiles_of_thread[T][r] = load(static_cast<const float *>(first) + r * step);
}

template <int T>
__attribute__((noinline)) void store_tile(float *first, int64_t step) {
  for (int r = 0; r < TILE; ++r) store(first + r * step, tiles_of_thread[T][r]);
}

template <int SUM, int A, int B>
__attribute__((noinline)) void multiply_tiles() {
  for (int r = 0; r < TILE; ++r)
    for (int k = 0; k < TILE; ++k)
      tiles_of_thread[SUM][r] =
          add_product<BFloat16>(tiles_of_thread[SUM][r], all(tiles_of_thread[A][r][k]), tiles_of_thread[B][k]);
}
#endif
