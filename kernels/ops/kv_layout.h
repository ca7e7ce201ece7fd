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

/** One layer and KV head of a cache, as an operation sees it. */
struct KvHead {
  const std::byte* k;
  const std::byte* v;
  /** i32 [rows]: position of each row, ascending; null when no attention window needs it. */
  const int32_t* positions;
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

/** Byte offset of K element d of a row. */
static inline int64_t k_offset(DType dtype, int64_t head_dim, int64_t row, int64_t d) {
  const int64_t tile = row / kTileColumns * divide_up(head_dim, kTileDepth) + d / kTileDepth;
  return tile * tile_bytes(dtype) + tile_element(dtype, d % kTileDepth, row % kTileColumns) * dtype_size(dtype);
}

/** Byte offset of V element d of a row. */
static inline int64_t v_offset(DType dtype, int64_t head_dim, int64_t row, int64_t d) {
  const int64_t tile = row / kTileDepth * divide_up(head_dim, kTileColumns) + d / kTileColumns;
  return tile * tile_bytes(dtype) + tile_element(dtype, row % kTileDepth, d % kTileColumns) * dtype_size(dtype);
}

/** Rounds and writes one row from f32 [D]. */
static inline void store_kv_row(DType dtype, int64_t head_dim, std::byte* k, std::byte* v, int64_t row, const float* k_values,
                                const float* v_values) {
  for (int64_t d = 0; d < head_dim; ++d) {
    store_element(dtype, k + k_offset(dtype, head_dim, row, d), 0, k_values[d]);
    store_element(dtype, v + v_offset(dtype, head_dim, row, d), 0, v_values[d]);
  }
}

/** Copies a row's bits; the two caches may be one. */
static inline void copy_kv_row(DType dtype, int64_t head_dim, const std::byte* from_k, const std::byte* from_v, int64_t from_row,
                               std::byte* to_k, std::byte* to_v, int64_t to_row) {
  const int64_t size = dtype_size(dtype);
  for (int64_t d = 0; d < head_dim; ++d) {
    std::memcpy(to_k + k_offset(dtype, head_dim, to_row, d), from_k + k_offset(dtype, head_dim, from_row, d), size);
    std::memcpy(to_v + v_offset(dtype, head_dim, to_row, d), from_v + v_offset(dtype, head_dim, from_row, d), size);
  }
}

/** Writes zeros to the rows [first, end of its group). */
static inline void clear_group_tail(DType dtype, int64_t head_dim, std::byte* k, std::byte* v, int64_t first) {
  const int64_t size = dtype_size(dtype);
  for (int64_t row = first; row % kRowGroup != 0; ++row) {
    for (int64_t d = 0; d < head_dim; ++d) {
      std::memset(k + k_offset(dtype, head_dim, row, d), 0, size);
      std::memset(v + v_offset(dtype, head_dim, row, d), 0, size);
    }
  }
}

}  // namespace gorgon
