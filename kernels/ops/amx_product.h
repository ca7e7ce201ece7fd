// amx_product: rows times packed tiles on AMX, for bf16, and for int8 by way of bf16. The bits are those of ops/tile_product.h.
//
// Rows are packed first: groups of 16 rows, each group's depth in 1 KiB tiles one after the other, so that a tile is read as one line after
// the other (rows of a wide matrix would fall on the same few sets of the first-level cache).
//
//   up to 16 rows   1 tile of rows x 3 of columns: columns are many and read once
//   more            2 tiles of rows x 2 of columns: each tile read serves two products
#pragma once

#include "common/amx.h"
#include "common/packed.h"
#include "common/simd.h"

#if GORGON_SIMD_AMX

namespace gorgon::GORGON_ISA::amx_tiles {

constexpr int64_t kGroupRows = 16;
constexpr int64_t kTileStride = 64;
constexpr int64_t kRowTileBytes = kGroupRows * kTileStride;

/** Below this many rows vector registers are as fast: the weights' bytes are what takes time, and nothing has to be packed. */
constexpr int64_t kLeastRows = 4;

/** Whether a product goes through the tiles. Its bits do not depend on the answer. */
static inline bool pays(DType dtype, int64_t rows) { return takes_bf16(dtype) && rows >= kLeastRows; }

/**
 * The tile registers while this lives, shaped for one or two groups of rows: results 0 1 (and 2), or 0 1 of the first and 2 3 of the second
 * group; rows 4 and 5; columns 6 and 7, or 5 6 7 where there is one group.
 */
class Tiles {
 public:
  Tiles() = default;
  ~Tiles() {
    if (first_ > 0) GORGON_TILE_RELEASE();
  }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;

  /** @param second 0 for one group. */
  void shape(int64_t first, int64_t second) {
    if (first == first_ && second == second_) return;
    if (first == kGroupRows && first_ == kGroupRows && second_ == kGroupRows && second == 0) return;  // every register is whole
    first_ = first;
    second_ = second;
    TileConfig config;
    const auto first_rows = static_cast<uint8_t>(first), second_rows = static_cast<uint8_t>(second);
    const uint8_t one[8] = {first_rows, first_rows, first_rows, 0, first_rows, 16, 16, 16};
    const uint8_t two[8] = {first_rows, first_rows, second_rows, second_rows, first_rows, second_rows, 16, 16};
    for (int tile = 0; tile < 8; ++tile) {
      config.rows[tile] = second > 0 ? two[tile] : one[tile];
      config.row_bytes[tile] = config.rows[tile] > 0 ? kTileStride : 0;
    }
    GORGON_TILE_CONFIGURE(&config);
  }

 private:
  int64_t first_ = 0, second_ = 0;
};

/** At most 16 rows of `a` as `tiles` tiles, one after the other. */
static inline void pack_group(const float* a, int64_t lda, int64_t rows, int64_t tiles, std::byte* out) {
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = a + row * lda;
    std::byte* to = out + row * kTileStride;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      store_bf16_line(to + tile * kRowTileBytes, load(from + tile * kTileDepth), load(from + tile * kTileDepth + kLanes));
    }
  }
}

/** Packed rows: group g's tile t is at tiles + g * group_stride + t * 1 KiB. */
struct PackedRows {
  const std::byte* tiles;
  int64_t group_stride;
  int64_t rows;
};

/** A run of column blocks and depth tiles. */
struct Panel {
  const std::byte* tiles;
  int64_t column_stride;
  int64_t depth_stride;
  int64_t depth_tiles;
  /** The panel after this one, as many bytes of each column block: fetched while many rows go over this one. Null where there is none. */
  const std::byte* next = nullptr;
  int64_t next_bytes = 0;
};

/** Part `part` of `parts` of the next panel into the second-level cache. */
static inline void fetch_part(const Panel& w, int64_t blocks, int64_t part, int64_t parts) {
  if (w.next == nullptr) return;
  for (int64_t block = 0; block < blocks; ++block) {
    const std::byte* lines = w.next + block * w.column_stride;
    const int64_t first = w.next_bytes * part / parts / 64 * 64, last = w.next_bytes * (part + 1) / parts;
    for (int64_t at = first; at < last; at += 64) __builtin_prefetch(lines + at, 0, 2);
  }
}

/** An int8 tile as the bf16 tile of the same whole numbers. */
GORGON_INLINE void widen_tile(const std::byte* from, std::byte* to) {
  for (int pair = 0; pair < kTileDepth / 2; ++pair) {
    store_bf16_pairs(to + pair * kTileStride, load_int8(from + pair * 2 * kTileColumns), load_int8(from + pair * 2 * kTileColumns + kTileColumns));
  }
}

/** Where the bf16 values of a tile of columns are: there, or in `wide` once widened. The processor widens one tile while it multiplies another. */
template <bool Widen>
GORGON_INLINE const std::byte* bf16_tile(const std::byte* tile, std::byte* wide) {
  if constexpr (!Widen) return tile;
  widen_tile(tile, wide);
  tile_memory_is_written();
  return wide;
}

/** Products no deeper than this, those of attention, end before what they ask for comes. */
constexpr int64_t kShortDepthTiles = 8;

/** Asks for a tile's lines. Beyond the matrix this asks for nothing that matters. */
GORGON_INLINE void fetch_tile(const std::byte* tile, int64_t bytes) {
  for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(tile + line);
}

/** One group of rows by 1 to 3 column blocks: a decoding step, which reads each tile of columns once. */
template <int Blocks, bool Widen>
static inline void one_group(const std::byte* a, const Panel& w, float* c, int64_t ldc, bool keep) {
  constexpr int64_t kBytes = Widen ? kTileElements : kRowTileBytes;
  alignas(64) std::byte wide[Widen ? 2 * Blocks * kRowTileBytes : 1];
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float));
  if (keep) {
    GORGON_TILE_LOAD(0, c, c_stride);
    if constexpr (Blocks > 1) GORGON_TILE_LOAD(1, c + kTileColumns, c_stride);
    if constexpr (Blocks > 2) GORGON_TILE_LOAD(2, c + 2 * kTileColumns, c_stride);
  } else {
    GORGON_TILE_ZERO(0);
    if constexpr (Blocks > 1) GORGON_TILE_ZERO(1);
    if constexpr (Blocks > 2) GORGON_TILE_ZERO(2);
  }
  const std::byte* b = w.tiles;
  const bool fetch = w.depth_tiles > kShortDepthTiles;
  for (int64_t t = 0; t < w.depth_tiles; ++t) {
    std::byte* turn = wide + (Widen ? t % 2 * Blocks * kRowTileBytes : 0);
    for (int block = 0; fetch && block < Blocks; ++block) fetch_tile(b + block * w.column_stride + kFetchAhead, kBytes);
    GORGON_TILE_LOAD(4, a, kTileStride);
    GORGON_TILE_LOAD(5, bf16_tile<Widen>(b, turn), kTileStride);
    GORGON_TILE_MULTIPLY(0, 4, 5);
    if constexpr (Blocks > 1) {
      GORGON_TILE_LOAD(6, bf16_tile<Widen>(b + w.column_stride, turn + kRowTileBytes), kTileStride);
      GORGON_TILE_MULTIPLY(1, 4, 6);
    }
    if constexpr (Blocks > 2) {
      GORGON_TILE_LOAD(7, bf16_tile<Widen>(b + 2 * w.column_stride, turn + 2 * kRowTileBytes), kTileStride);
      GORGON_TILE_MULTIPLY(2, 4, 7);
    }
    a += kRowTileBytes;
    b += w.depth_stride;
  }
  GORGON_TILE_STORE(0, c, c_stride);
  if constexpr (Blocks > 1) GORGON_TILE_STORE(1, c + kTileColumns, c_stride);
  if constexpr (Blocks > 2) GORGON_TILE_STORE(2, c + 2 * kTileColumns, c_stride);
}

/** Two groups of rows by 1 or 2 column blocks. `fetch`: these rows are the first to go over them. */
template <int Blocks, bool Widen>
static inline void two_groups(const std::byte* a, int64_t group_stride, const Panel& w, float* c, int64_t ldc, bool keep, bool fetch) {
  constexpr int64_t kBytes = Widen ? kTileElements : kRowTileBytes;
  alignas(64) std::byte wide[Widen ? 2 * Blocks * kRowTileBytes : 1];
  const int64_t c_stride = ldc * static_cast<int64_t>(sizeof(float));
  float* c_second = c + kGroupRows * ldc;
  if (keep) {
    GORGON_TILE_LOAD(0, c, c_stride);
    GORGON_TILE_LOAD(2, c_second, c_stride);
    if constexpr (Blocks > 1) {
      GORGON_TILE_LOAD(1, c + kTileColumns, c_stride);
      GORGON_TILE_LOAD(3, c_second + kTileColumns, c_stride);
    }
  } else {
    GORGON_TILE_ZERO(0);
    GORGON_TILE_ZERO(2);
    if constexpr (Blocks > 1) {
      GORGON_TILE_ZERO(1);
      GORGON_TILE_ZERO(3);
    }
  }
  const std::byte* b = w.tiles;
  for (int64_t t = 0; t < w.depth_tiles; ++t) {
    std::byte* turn = wide + (Widen ? t % 2 * Blocks * kRowTileBytes : 0);
    for (int block = 0; fetch && block < Blocks; ++block) fetch_tile(b + block * w.column_stride + kFetchAhead, kBytes);
    GORGON_TILE_LOAD(6, bf16_tile<Widen>(b, turn), kTileStride);
    GORGON_TILE_LOAD(4, a, kTileStride);
    GORGON_TILE_MULTIPLY(0, 4, 6);
    GORGON_TILE_LOAD(5, a + group_stride, kTileStride);
    GORGON_TILE_MULTIPLY(2, 5, 6);
    if constexpr (Blocks > 1) {
      GORGON_TILE_LOAD(7, bf16_tile<Widen>(b + w.column_stride, turn + kRowTileBytes), kTileStride);
      GORGON_TILE_MULTIPLY(1, 4, 7);
      GORGON_TILE_MULTIPLY(3, 5, 7);
    }
    a += kRowTileBytes;
    b += w.depth_stride;
  }
  GORGON_TILE_STORE(0, c, c_stride);
  GORGON_TILE_STORE(2, c_second, c_stride);
  if constexpr (Blocks > 1) {
    GORGON_TILE_STORE(1, c + kTileColumns, c_stride);
    GORGON_TILE_STORE(3, c_second + kTileColumns, c_stride);
  }
}

/** Every row by a panel of at most three column blocks (two where there is more than one group of rows). */
template <bool Widen>
static inline void rows_by_panel(Tiles& tiles, const PackedRows& a, const Panel& w, int64_t blocks, float* c, int64_t ldc, bool keep) {
  const int64_t pairs = divide_up(a.rows, 2 * kGroupRows);
  int64_t row = 0;
  for (; a.rows - row > kGroupRows; row += 2 * kGroupRows) {
    const int64_t second = a.rows - row - kGroupRows;
    tiles.shape(kGroupRows, second < kGroupRows ? second : kGroupRows);
    const std::byte* groups = a.tiles + row / kGroupRows * a.group_stride;
    fetch_part(w, blocks, row / (2 * kGroupRows), pairs);
    const bool fetch = row == 0 && w.next == nullptr && w.depth_tiles > kShortDepthTiles;
    if (blocks > 1) {
      two_groups<2, Widen>(groups, a.group_stride, w, c + row * ldc, ldc, keep, fetch);
    } else {
      two_groups<1, Widen>(groups, a.group_stride, w, c + row * ldc, ldc, keep, fetch);
    }
  }
  if (row < a.rows) {
    tiles.shape(a.rows - row, 0);
    const std::byte* group = a.tiles + row / kGroupRows * a.group_stride;
    if (blocks > 2) {
      one_group<3, Widen>(group, w, c + row * ldc, ldc, keep);
    } else if (blocks > 1) {
      one_group<2, Widen>(group, w, c + row * ldc, ldc, keep);
    } else {
      one_group<1, Widen>(group, w, c + row * ldc, ldc, keep);
    }
  }
}

/** As rows_by_panel, for a prompt's rows by int8 tiles: some depth is widened once, then all rows go over it. */
static inline void rows_by_int8_panel(Tiles& tiles, PackedRows a, const Panel& w, int64_t blocks, float* c, int64_t ldc, bool keep) {
  constexpr int64_t kTilesAtOnce = 8, kMostBlocks = 2;
  alignas(64) std::byte wide[kMostBlocks * kTilesAtOnce * kRowTileBytes];
  constexpr int64_t kColumnStride = kTilesAtOnce * kRowTileBytes;
  for (int64_t first = 0; first < w.depth_tiles; first += kTilesAtOnce) {
    const int64_t count = first + kTilesAtOnce < w.depth_tiles ? kTilesAtOnce : w.depth_tiles - first;
    for (int64_t block = 0; block < blocks; ++block) {
      const std::byte* from = w.tiles + block * w.column_stride + first * w.depth_stride;
      for (int64_t t = 0; t < count; ++t) widen_tile(from + t * w.depth_stride, wide + block * kColumnStride + t * kRowTileBytes);
    }
    tile_memory_is_written();
    rows_by_panel<false>(tiles, a, {wide, kColumnStride, kRowTileBytes, count}, blocks, c, ldc, keep || first > 0);
    a.tiles += count * kRowTileBytes;
  }
}

/** c (rows x columns of [first_block, last_block)) from the depth tiles [first_tile, last_tile) of a matrix; `a` starts at first_tile. */
static inline void product(Tiles& tiles, const PackedRows& a, const PackedMatrix& w, int64_t first_block, int64_t last_block,
                           int64_t first_tile, int64_t last_tile, float* c, int64_t ldc, bool keep) {
  const int64_t step = a.rows > kGroupRows ? 2 : 3;
  for (int64_t block = first_block; block < last_block; block += step) {
    const int64_t blocks = block + step < last_block ? step : last_block - block;
    Panel panel{w.tile(block, first_tile), w.column_stride, w.depth_stride, last_tile - first_tile};
    if (w.dtype != DType::kInt8 && a.rows > 4 * kGroupRows) {
      panel.next = block + step < last_block ? w.tile(block + step, first_tile) : w.tile(first_block, last_tile);
      panel.next_bytes = panel.depth_tiles * w.depth_stride;
    }
    float* c_block = c + (block - first_block) * kTileColumns;
    if (w.dtype != DType::kInt8) {
      rows_by_panel<false>(tiles, a, panel, blocks, c_block, ldc, keep);
    } else if (a.rows <= 2 * kGroupRows) {
      rows_by_panel<true>(tiles, a, panel, blocks, c_block, ldc, keep);
    } else {
      rows_by_int8_panel(tiles, a, panel, blocks, c_block, ldc, keep);
    }
  }
}

/**
 * tile_product on AMX. All rows are packed, some depth at a time, before any is multiplied: a tile must not be loaded while its lines are on
 * their way to the cache. Then two groups go over all columns, so that the registers are shaped once.
 */
static inline void product_of_rows(const float* a, int64_t lda, int64_t m, const PackedMatrix& w, int64_t first_block, int64_t last_block,
                                   float* c, int64_t ldc, bool keep) {
  constexpr int64_t kRowsAtOnce = 64, kTilesAtOnce = 8, kGroupStride = kTilesAtOnce * kRowTileBytes;
  alignas(64) std::byte packed[kRowsAtOnce / kGroupRows * kGroupStride];
  Tiles tiles;
  const int64_t depth_tiles = w.depth_tiles();
  for (int64_t row = 0; row < m; row += kRowsAtOnce) {
    const int64_t rows = row + kRowsAtOnce < m ? kRowsAtOnce : m - row;
    for (int64_t tile = 0; tile < depth_tiles; tile += kTilesAtOnce) {
      const int64_t last = tile + kTilesAtOnce < depth_tiles ? tile + kTilesAtOnce : depth_tiles;
      for (int64_t first = 0; first < rows; first += kGroupRows) {
        const int64_t count = first + kGroupRows < rows ? kGroupRows : rows - first;
        pack_group(a + (row + first) * lda + tile * kTileDepth, lda, count, last - tile, packed + first / kGroupRows * kGroupStride);
      }
      tile_memory_is_written();
      for (int64_t first = 0; first < rows; first += 2 * kGroupRows) {
        const int64_t count = first + 2 * kGroupRows < rows ? 2 * kGroupRows : rows - first;
        product(tiles, {packed + first / kGroupRows * kGroupStride, kGroupStride, count}, w, first_block, last_block, tile, last,
                c + (row + first) * ldc, ldc, keep || tile > 0);
      }
    }
  }
}

}  // namespace gorgon::GORGON_ISA::amx_tiles

#endif
