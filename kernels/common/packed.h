// The one layout of every matrix that is multiplied: tiles of 16 columns by 32 of depth, contiguous, as AMX reads them.
//
// A tile is an AMX B operand in pair order; AVX-512 reads one 64-byte line of it as 16 columns x 2 of depth, AVX2 half a line:
//
//   bf16, f16   [16 pairs][16 columns][2]   1 KiB, element (k, n) at pair k / 2, column n, half k % 2
//   f32         [16 pairs][2][16 columns]   2 KiB
//   int8        [16 pairs][2][16 columns]   512 B; behind the tiles of a column block, its 16 scales, f32
//
// Weights [N, K]: columns are outputs, depth is the input width. K cache: columns are rows of the cache, depth is the head width.
// V cache: columns are the head width, depth is rows of the cache. Edges are filled with zeros.
//
// Reduction order of a product, the same on every instruction set (performance: AMX gives exactly these bits for bf16): per tile, one
// chain of fused multiply-adds from zero over even k and one over odd k, each in rising k; then c + (even + odd). Tiles in rising depth.
//
// int8 weights: w[n, k] = scale[n] * q[n, k], where scale[n] is the largest magnitude of column n over 127, and q = w / scale rounded to
// nearest, ties to even, all in f32. Products are summed over q, which are bf16 values, and multiplied by the scale once, at the end. A
// column without a magnitude of 2^-110 has the scale 0 and zeros; one with a value that is not finite has the scale NaN and zeros.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/dtype.h"

namespace gorgon {

constexpr int kTileColumns = 16;
constexpr int kTileDepth = 32;
constexpr int kTileElements = kTileColumns * kTileDepth;

/** Bytes from the tile that is multiplied to the one that is asked for meanwhile, where weights are read once: over the ends of pages, too. */
constexpr int64_t kFetchAhead = 4096;

static inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }
static inline int64_t divide_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }
constexpr int64_t tile_bytes(DType dtype) { return kTileElements * dtype_size(dtype); }

/** Element index, inside a tile, of depth k in [0, 32) and column n in [0, 16). */
static inline int64_t tile_element(DType dtype, int64_t k, int64_t n) {
  return dtype == DType::kF32 || dtype == DType::kInt8 ? k * kTileColumns + n : (k / 2) * 2 * kTileColumns + n * 2 + k % 2;
}

/** Whether rows multiplied with tiles of `dtype` have to hold bf16 values. */
static inline bool takes_bf16(DType dtype) { return dtype == DType::kBf16 || dtype == DType::kInt8; }

/** A view of a grid of tiles: owns nothing. */
struct PackedMatrix {
  const std::byte* tiles = nullptr;
  DType dtype = DType::kF32;
  int64_t columns = 0;
  int64_t depth = 0;
  /** Bytes from a tile to the next in each direction. */
  int64_t column_stride = 0;
  int64_t depth_stride = 0;

  int64_t column_blocks() const { return divide_up(columns, kTileColumns); }
  int64_t depth_tiles() const { return divide_up(depth, kTileDepth); }
  const std::byte* tile(int64_t column_block, int64_t depth_tile) const {
    return tiles + column_block * column_stride + depth_tile * depth_stride;
  }
  /** f32 [16]: of an int8 weight's column block, past the last column zeros. */
  const float* scales(int64_t column_block) const { return reinterpret_cast<const float*>(tile(column_block, depth_tiles())); }
};

/** Of a weight: its depth tiles next to each other, and the scales of int8. */
static inline int64_t column_block_bytes(DType dtype, int64_t depth) {
  const int64_t scales = dtype == DType::kInt8 ? kTileColumns * static_cast<int64_t>(sizeof(float)) : 0;
  return divide_up(depth, kTileDepth) * tile_bytes(dtype) + scales;
}

/** A [columns, depth] weight, column block after column block. */
static inline PackedMatrix packed_weight(const std::byte* tiles, DType dtype, int64_t columns, int64_t depth) {
  return {tiles, dtype, columns, depth, column_block_bytes(dtype, depth), tile_bytes(dtype)};
}

static inline int64_t packed_weight_bytes(DType dtype, int64_t columns, int64_t depth) {
  return divide_up(columns, kTileColumns) * column_block_bytes(dtype, depth);
}

}  // namespace gorgon
