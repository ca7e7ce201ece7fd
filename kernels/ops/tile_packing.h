// Plain f32 rows to single tiles (common/packed.h), as vectors go: for weights that are packed again and again.
#pragma once

#include "common/packed.h"
#include "common/transpose.h"

namespace gorgon::GORGON_ISA {

/** Sixteen columns of two neighbours in depth, rounded, to pair `pair` of a tile. */
template <DType dtype>
GORGON_INLINE void store_pair(std::byte* tile, int64_t pair, F32x16 even, F32x16 odd) {
  if constexpr (dtype == DType::kBf16) {
    store_bf16_pairs(tile + pair * 64, round_bf16(even), round_bf16(odd));
  } else if constexpr (dtype == DType::kF16) {
    store_f16_pairs(tile + pair * 64, even, odd);
  } else {
    float* values = reinterpret_cast<float*>(tile) + pair * 2 * kTileColumns;
    store(values, even);
    store(values + kTileColumns, odd);
  }
}

/** Rows are the tile's depth: up to 32 of them, `stride` floats apart, with up to 16 values; zeros for what is not there. */
template <DType dtype>
GORGON_INLINE void pack_depth_tile(const float* rows, int64_t stride, int64_t depth, int64_t columns, std::byte* tile) {
  const auto row = [&](int64_t k) { return k < depth ? load_first(rows + k * stride, columns) : zero(); };
  for (int64_t pair = 0; pair < kTileDepth / 2; ++pair) store_pair<dtype>(tile, pair, row(2 * pair), row(2 * pair + 1));
}

/** Rows are the tile's columns: up to 16 of them, `stride` floats apart, with up to 32 values. */
template <DType dtype>
GORGON_INLINE void pack_column_tile(const float* rows, int64_t stride, int64_t columns, int64_t depth, std::byte* tile) {
  for (int64_t first = 0; first < kTileDepth; first += kLanes) {
    F32x16 lanes[kLanes];
    for (int64_t n = 0; n < kLanes; ++n) lanes[n] = n < columns && first < depth ? load_first(rows + n * stride + first, depth - first) : zero();
    transpose(lanes);
    for (int64_t k = 0; k < kLanes; k += 2) store_pair<dtype>(tile, (first + k) / 2, lanes[k], lanes[k + 1]);
  }
}

}  // namespace gorgon::GORGON_ISA
