// tile_product: rows of f32 times a grid of packed tiles, the one inner loop that linear and attention share.
//
//   c[m, n] = (c[m, n] or 0) + sum over tiles, in rising depth, of (even chain + odd chain)        see common/packed.h
//
// `a` holds M rows, `lda` floats apart, each readable up to the last tile's depth (zeros past the matrix's own depth). For bf16 and int8
// tiles the values of `a` must be bf16 values: then AMX, which rounds its input, gives the same bits. int8 tiles are multiplied as the
// whole numbers they hold: their scales are the caller's.
// A row's result depends on that row and the tiles alone, never on M.
#pragma once

#include "common/packed.h"
#include "common/simd.h"
#include "ops/amx_product.h"

namespace gorgon::GORGON_ISA {

namespace tile {

template <DType dtype>
GORGON_INLINE void load_pair(const std::byte* tile, int pair, F32x16& even, F32x16& odd) {
  if constexpr (dtype == DType::kBf16) {
    load_bf16_pairs(tile + pair * 64, even, odd);
  } else if constexpr (dtype == DType::kF16) {
    load_f16_pairs(tile + pair * 64, even, odd);
  } else if constexpr (dtype == DType::kInt8) {
    even = load_int8(tile + pair * 2 * kTileColumns);
    odd = load_int8(tile + pair * 2 * kTileColumns + kTileColumns);
  } else {
    const float* values = reinterpret_cast<const float*>(tile) + pair * 2 * kTileColumns;
    even = load(values);
    odd = load(values + kTileColumns);
  }
}

// Rows and column blocks held in registers at once, and rows up to which both chains of a tile are. Measured, not counted: the compiler keeps
// some shapes in registers and spills others (4 x 3 reaches the multiply-add peak of a Zen 5 core with AVX-512, 4 x 2 less than half of it;
// with AVX2's sixteen registers 6 x 1, one chain after the other, reaches it, and both chains of 3 x 1 a third).
#if GORGON_SIMD_AVX512
constexpr int kRows = 4, kBlocks = 3, kRowsOfBothChains = 4;
#elif GORGON_SIMD_AVX2
constexpr int kRows = 6, kBlocks = 1, kRowsOfBothChains = 2;
#else
constexpr int kRows = 3, kBlocks = 1, kRowsOfBothChains = 3;
#endif

/** Up to so many rows the weights' bytes are what takes time, and are asked for ahead. */
constexpr int kFetchRows = 2;

/** One chain of a tile: every second depth from `parity` on. */
template <DType dtype, int Rows, int Blocks, int parity>
GORGON_INLINE void add_chain(const float* row, int64_t lda, const std::byte* tiles, int64_t column_stride, F32x16 (&chain)[Rows][Blocks]) {
  for (int pair = 0; pair < kTileDepth / 2; ++pair) {
    F32x16 w[2][Blocks];
    for (int b = 0; b < Blocks; ++b) load_pair<dtype>(tiles + b * column_stride, pair, w[0][b], w[1][b]);
    for (int m = 0; m < Rows; ++m) {
      const F32x16 value = broadcast(row[m * lda + 2 * pair + parity]);
      for (int b = 0; b < Blocks; ++b) chain[m][b] = fma(value, w[parity][b], chain[m][b]);
    }
  }
}

/** Both chains of a tile. */
template <DType dtype, int Rows, int Blocks>
GORGON_INLINE void add_chains(const float* row, int64_t lda, const std::byte* tiles, int64_t column_stride, F32x16 (&even)[Rows][Blocks],
                              F32x16 (&odd)[Rows][Blocks]) {
  if constexpr (Rows > kRowsOfBothChains) {
    add_chain<dtype, Rows, Blocks, 0>(row, lda, tiles, column_stride, even);
    add_chain<dtype, Rows, Blocks, 1>(row, lda, tiles, column_stride, odd);
    return;
  }
  for (int pair = 0; pair < kTileDepth / 2; ++pair) {
    F32x16 w_even[Blocks], w_odd[Blocks];
    if constexpr (Rows <= kFetchRows) {
      constexpr int64_t kPairBytes = tile_bytes(dtype) / (kTileDepth / 2);
      for (int b = 0; b < Blocks; ++b) __builtin_prefetch(tiles + b * column_stride + pair * kPairBytes + kFetchAhead);
    }
    for (int b = 0; b < Blocks; ++b) load_pair<dtype>(tiles + b * column_stride, pair, w_even[b], w_odd[b]);
    for (int m = 0; m < Rows; ++m) {
      const F32x16 a_even = broadcast(row[m * lda + 2 * pair]);
      const F32x16 a_odd = broadcast(row[m * lda + 2 * pair + 1]);
      for (int b = 0; b < Blocks; ++b) {
        even[m][b] = fma(a_even, w_even[b], even[m][b]);
        odd[m][b] = fma(a_odd, w_odd[b], odd[m][b]);
      }
    }
  }
}

/** `Rows` x `Blocks` results. `w` is the first tile of the first block; c is [Rows][Blocks] of 16 lanes, ldc floats from row to row. */
template <DType dtype, int Rows, int Blocks>
GORGON_INLINE void product(const float* a, int64_t lda, const std::byte* w, int64_t column_stride, int64_t depth_stride,
                           int64_t depth_tiles, float* c, int64_t ldc, bool keep) {
  F32x16 sum[Rows][Blocks];
  for (int m = 0; m < Rows; ++m) {
    for (int b = 0; b < Blocks; ++b) sum[m][b] = keep ? load(c + m * ldc + b * kTileColumns) : zero();
  }
  for (int64_t t = 0; t < depth_tiles; ++t) {
    F32x16 even[Rows][Blocks], odd[Rows][Blocks];
    for (int m = 0; m < Rows; ++m) {
      for (int b = 0; b < Blocks; ++b) even[m][b] = odd[m][b] = zero();
    }
    add_chains<dtype, Rows, Blocks>(a + t * kTileDepth, lda, w + t * depth_stride, column_stride, even, odd);
    for (int m = 0; m < Rows; ++m) {
      for (int b = 0; b < Blocks; ++b) sum[m][b] = sum[m][b] + (even[m][b] + odd[m][b]);
    }
  }
  for (int m = 0; m < Rows; ++m) {
    for (int b = 0; b < Blocks; ++b) store(c + m * ldc + b * kTileColumns, sum[m][b]);
  }
}

/** All rows of `Blocks` column blocks, in groups of at most `Rows`. */
template <DType dtype, int Rows, int Blocks>
GORGON_INLINE void rows_of(const float* a, int64_t lda, int64_t m, const std::byte* w, int64_t column_stride, int64_t depth_stride,
                           int64_t depth_tiles, float* c, int64_t ldc, bool keep) {
  int64_t row = 0;
  for (; row + Rows <= m; row += Rows) {
    product<dtype, Rows, Blocks>(a + row * lda, lda, w, column_stride, depth_stride, depth_tiles, c + row * ldc, ldc, keep);
  }
  if constexpr (Rows > 1) {
    if (row < m) {
      rows_of<dtype, Rows - 1, Blocks>(a + row * lda, lda, m - row, w, column_stride, depth_stride, depth_tiles, c + row * ldc, ldc, keep);
    }
  }
}

template <DType dtype>
static void blocks_of(const float* a, int64_t lda, int64_t m, const PackedMatrix& w, int64_t first_block, int64_t last_block,
                      float* c, int64_t ldc, bool keep) {
  const int64_t tiles = w.depth_tiles();
  int64_t block = first_block;
  for (; block + kBlocks <= last_block; block += kBlocks) {
    rows_of<dtype, kRows, kBlocks>(a, lda, m, w.tile(block, 0), w.column_stride, w.depth_stride, tiles,
                                   c + (block - first_block) * kTileColumns, ldc, keep);
  }
  for (; block < last_block; ++block) {
    rows_of<dtype, kRows, 1>(a, lda, m, w.tile(block, 0), w.column_stride, w.depth_stride, tiles,
                             c + (block - first_block) * kTileColumns, ldc, keep);
  }
}

}  // namespace tile

/**
 * c[m, (block - first_block) * 16 + lane] for the column blocks [first_block, last_block) of `w`, over its whole depth. `keep` continues
 * from the values in c; otherwise from zero. c is written in whole blocks of 16 columns.
 */
static inline void tile_product(const float* a, int64_t lda, int64_t m, const PackedMatrix& w, int64_t first_block,
                                int64_t last_block, float* c, int64_t ldc, bool keep) {
#if GORGON_SIMD_AMX
  if (amx_tiles::pays(w.dtype, m)) return amx_tiles::product_of_rows(a, lda, m, w, first_block, last_block, c, ldc, keep);
#endif
  switch (w.dtype) {
    case DType::kBf16:
      return tile::blocks_of<DType::kBf16>(a, lda, m, w, first_block, last_block, c, ldc, keep);
    case DType::kF16:
      return tile::blocks_of<DType::kF16>(a, lda, m, w, first_block, last_block, c, ldc, keep);
    case DType::kF32:
      return tile::blocks_of<DType::kF32>(a, lda, m, w, first_block, last_block, c, ldc, keep);
    case DType::kInt8:
      return tile::blocks_of<DType::kInt8>(a, lda, m, w, first_block, last_block, c, ldc, keep);
  }
}

}  // namespace gorgon::GORGON_ISA
