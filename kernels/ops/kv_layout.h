// kv_layout: where the K and V of a cache row are, for one layer and KV head, in the tiles of common/packed.h.
//
//   K   [rows / 16][D / 32] tiles: columns are rows of the cache, depth is the head width: q . k is a product with tiles
//   V   [rows / 32][D / 16] tiles: columns are the head width, depth is rows of the cache: p . v is a product with tiles
//
// Rows come in groups of 32, one depth tile of V. Unused rows and the padding of D hold zeros.
#pragma once

#include "common/packed.h"

namespace gorgon {

constexpr int kRowGroup = kTileDepth;
/** Widest head an operation takes: bounds what attention keeps on the stack. */
constexpr int64_t kMaxHeadDim = 256;

/** One layer and KV head of a cache, as an operation sees it: memory of the backend, in its layout. */
struct KvHead {
  std::byte* k;
  std::byte* v;
  /** i32 [rows]: position of each row, ascending; null when no attention window needs it. */
  int32_t* positions;
};

static inline int64_t k_group_bytes(DType dtype, int64_t head_dim) {
  return 2 * divide_up(head_dim, kTileDepth) * tile_bytes(dtype);
}
static inline int64_t v_group_bytes(DType dtype, int64_t head_dim) {
  return divide_up(head_dim, kTileColumns) * tile_bytes(dtype);
}

/** K of the rows from group `group` on. */
static inline PackedMatrix k_matrix(const std::byte* k, DType dtype, int64_t head_dim, int64_t group, int64_t groups) {
  const int64_t bytes = tile_bytes(dtype);
  const int64_t depth_tiles = divide_up(head_dim, kTileDepth);
  return {k + group * k_group_bytes(dtype, head_dim), dtype, groups * kRowGroup, head_dim, depth_tiles * bytes, bytes};
}

/** V of the rows from group `group` on. */
static inline PackedMatrix v_matrix(const std::byte* v, DType dtype, int64_t head_dim, int64_t group, int64_t groups) {
  const int64_t bytes = tile_bytes(dtype);
  const int64_t column_blocks = divide_up(head_dim, kTileColumns);
  return {v + group * v_group_bytes(dtype, head_dim), dtype, head_dim, groups * kRowGroup, bytes, column_blocks * bytes};
}

// A row of K is a word of every line of its tiles: two neighbouring values of a half type, or one f32. A row of V is a line of each of its
// tiles, or half the words of one. Both go with their padding, which is zero everywhere.

constexpr int64_t kLineBytes = 64;
constexpr int64_t kWordBytes = 4;

/** The first word of a row of K; the next ones are a line apart. */
static inline std::byte* k_row(std::byte* k, DType dtype, int64_t head_dim, int64_t row) {
  return k + row / kTileColumns * divide_up(head_dim, kTileDepth) * tile_bytes(dtype) + row % kTileColumns * kWordBytes;
}
static inline int64_t k_row_words(DType dtype, int64_t head_dim) { return divide_up(head_dim, kTileDepth) * tile_bytes(dtype) / kLineBytes; }

/** The first line of a row of V; the next ones are a tile apart. A row of a half type is in every second value, from row % 2 on. */
static inline std::byte* v_row(std::byte* v, DType dtype, int64_t head_dim, int64_t row) {
  const int64_t line = dtype == DType::kF32 ? row % kTileDepth : row % kTileDepth / 2;
  return v + row / kTileDepth * v_group_bytes(dtype, head_dim) + line * kLineBytes;
}

/** Replaces every second value of a line. */
static inline void store_half_line(std::byte* line, int64_t half, const uint16_t* bits) {
  uint32_t words[kTileColumns];
  std::memcpy(words, line, sizeof words);
  const uint32_t kept = half == 0 ? 0xffff0000u : 0x0000ffffu;
  const int shift = half == 0 ? 0 : 16;
  for (int n = 0; n < kTileColumns; ++n) words[n] = (words[n] & kept) | static_cast<uint32_t>(bits[n]) << shift;
  std::memcpy(line, words, sizeof words);
}

static inline void load_half_line(const std::byte* line, int64_t half, uint16_t* bits) {
  uint32_t words[kTileColumns];
  std::memcpy(words, line, sizeof words);
  const int shift = half == 0 ? 0 : 16;
  for (int n = 0; n < kTileColumns; ++n) bits[n] = static_cast<uint16_t>(words[n] >> shift);
}

/** Rounds f32 [count] to a half type; zeros behind, up to whole tiles. */
static inline void round_row(DType dtype, const float* values, int64_t count, uint16_t* bits) {
  if (dtype == DType::kBf16) {
    for (int64_t d = 0; d < count; ++d) bits[d] = f32_to_bf16(values[d]);
  } else {
    for (int64_t d = 0; d < count; ++d) bits[d] = f32_to_f16(values[d]);
  }
  for (int64_t d = count; d < round_up(count, kTileDepth); ++d) bits[d] = 0;
}

/** Rounds and writes one row from f32 [D]. Not for two threads at a time where their rows share a line: rows 2i and 2i + 1. */
static inline void store_kv_row(DType dtype, int64_t head_dim, std::byte* k, std::byte* v, int64_t row, const float* k_values,
                                const float* v_values) {
  std::byte* k_to = k_row(k, dtype, head_dim, row);
  std::byte* v_to = v_row(v, dtype, head_dim, row);
  if (dtype == DType::kF32) {
    float padded[kMaxHeadDim] = {};
    std::memcpy(padded, k_values, head_dim * sizeof(float));
    for (int64_t word = 0; word < k_row_words(dtype, head_dim); ++word) std::memcpy(k_to + word * kLineBytes, padded + word, kWordBytes);
    std::memcpy(padded, v_values, head_dim * sizeof(float));
    for (int64_t d = 0; d < head_dim; d += kTileColumns, v_to += tile_bytes(dtype)) std::memcpy(v_to, padded + d, kLineBytes);
    return;
  }
  uint16_t bits[kMaxHeadDim];
  round_row(dtype, k_values, head_dim, bits);
  for (int64_t word = 0; word < k_row_words(dtype, head_dim); ++word) std::memcpy(k_to + word * kLineBytes, bits + 2 * word, kWordBytes);
  round_row(dtype, v_values, head_dim, bits);
  for (int64_t d = 0; d < head_dim; d += kTileColumns, v_to += tile_bytes(dtype)) store_half_line(v_to, row % 2, bits + d);
}

/** Copies a row's bits within a cache. Threads as store_kv_row. */
static inline void copy_kv_row(DType dtype, int64_t head_dim, std::byte* k, std::byte* v, int64_t from_row, int64_t to_row) {
  const std::byte* k_from = k_row(k, dtype, head_dim, from_row);
  std::byte* k_to = k_row(k, dtype, head_dim, to_row);
  for (int64_t word = 0; word < k_row_words(dtype, head_dim); ++word) std::memcpy(k_to + word * kLineBytes, k_from + word * kLineBytes, kWordBytes);
  const std::byte* v_from = v_row(v, dtype, head_dim, from_row);
  std::byte* v_to = v_row(v, dtype, head_dim, to_row);
  for (int64_t d = 0; d < head_dim; d += kTileColumns, v_from += tile_bytes(dtype), v_to += tile_bytes(dtype)) {
    if (dtype == DType::kF32) {
      std::memcpy(v_to, v_from, kLineBytes);
    } else {
      uint16_t bits[kTileColumns];
      load_half_line(v_from, from_row % 2, bits);
      store_half_line(v_to, to_row % 2, bits);
    }
  }
}

/** Writes zeros to the rows [first, end of its group). */
static inline void clear_group_tail(DType dtype, int64_t head_dim, std::byte* k, std::byte* v, int64_t first) {
  constexpr uint16_t kZeros[kTileColumns] = {};
  for (int64_t row = first; row % kRowGroup != 0; ++row) {
    std::byte* k_to = k_row(k, dtype, head_dim, row);
    for (int64_t word = 0; word < k_row_words(dtype, head_dim); ++word) std::memset(k_to + word * kLineBytes, 0, kWordBytes);
    std::byte* v_to = v_row(v, dtype, head_dim, row);
    for (int64_t d = 0; d < head_dim; d += kTileColumns, v_to += tile_bytes(dtype)) {
      if (dtype == DType::kF32 || row % 2 == 0) {
        std::memset(v_to, 0, kLineBytes);  // row + 1 lies behind, too
      } else {
        store_half_line(v_to, 1, kZeros);
      }
    }
  }
}

}  // namespace gorgon
