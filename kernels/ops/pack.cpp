// Packing of row-major weights into tiles, at load time.
#include <limits>

#include "ops/linear.h"

namespace gorgon {

namespace {

template <DType from>
void load_as(const void* source, int64_t first, int64_t count, float* values) {
  for (int64_t i = 0; i < count; ++i) values[i] = load_element(from, source, first + i);
}

/** Elements [first, first + count) of `source` as f32; a loop for each dtype, so that the compiler can make vectors of it. */
void load_elements(DType from, const void* source, int64_t first, int64_t count, float* values) {
  if (from == DType::kBf16) return load_as<DType::kBf16>(source, first, count, values);
  if (from == DType::kF16) return load_as<DType::kF16>(source, first, count, values);
  load_as<DType::kF32>(source, first, count, values);
}

/** The scale of a column: see common/packed.h. */
float int8_scale(DType from, const void* source, int64_t first, int64_t depth) {
  constexpr float kSmallest = 0x1p-110f;  // below, a quotient could depend on whether the thread flushes subnormals
  uint32_t largest = 0;                   // magnitudes compare as their bits do, and NaN above infinity above all others
  float values[kTileDepth];
  for (int64_t k = 0; k < depth; k += kTileDepth) {
    const int64_t count = k + kTileDepth < depth ? kTileDepth : depth - k;
    load_elements(from, source, first + k, count, values);
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t magnitude = float_bits(values[i]) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
    }
  }
  if (largest >= 0x7f800000u) return std::numeric_limits<float>::quiet_NaN();
  const float magnitude = bits_float(largest);
  return magnitude < kSmallest ? 0.0f : magnitude / 127.0f;
}

/** Packs a column, elements [first, first + depth) of `source`, as lane `lane` of a column block. */
void pack_int8_column(const void* source, DType from, int64_t first, int64_t depth, std::byte* block, int64_t lane) {
  const float scale = int8_scale(from, source, first, depth);
  float values[kTileDepth];
  for (int64_t k = 0; k < depth; k += kTileDepth) {
    std::byte* tile = block + k / kTileDepth * tile_bytes(DType::kInt8);
    const int64_t count = k + kTileDepth < depth ? kTileDepth : depth - k;
    if (scale > 0.0f) {
      load_elements(from, source, first + k, count, values);
      // Adding 1.5 * 2^23 leaves no fraction bits: round to nearest even without an instruction for it.
      for (int64_t i = 0; i < count; ++i) values[i] = (values[i] / scale + 12582912.0f) - 12582912.0f;
    } else {
      std::memset(values, 0, sizeof values);
    }
    for (int64_t i = 0; i < count; ++i) {
      const int8_t value = static_cast<int8_t>(values[i]);
      std::memcpy(tile + tile_element(DType::kInt8, i, lane), &value, 1);
    }
  }
  std::memcpy(block + divide_up(depth, kTileDepth) * tile_bytes(DType::kInt8) + lane * static_cast<int64_t>(sizeof scale), &scale, sizeof scale);
}

}  // namespace

void pack_columns(const void* source, DType from, std::byte* tiles, DType to, int64_t depth, int64_t offset, int64_t first, int64_t last) {
  const int64_t bytes = tile_bytes(to), block_bytes = column_block_bytes(to, depth);
  const bool same_bits = from == to && to != DType::kF32;
  for (int64_t n = first; n < last; ++n) {
    const int64_t column = offset + n, lane = column % kTileColumns;
    std::byte* block = tiles + column / kTileColumns * block_bytes;
    if (to == DType::kInt8) {
      pack_int8_column(source, from, n * depth, depth, block, lane);
      continue;
    }
    for (int64_t k = 0; k < depth; ++k) {
      std::byte* tile = block + k / kTileDepth * bytes;
      const int64_t at = tile_element(to, k % kTileDepth, lane);
      if (same_bits) {
        std::memcpy(tile + at * 2, static_cast<const char*>(source) + (n * depth + k) * 2, 2);
      } else {
        store_element(to, tile, at, load_element(from, source, n * depth + k));
      }
    }
  }
}

}  // namespace gorgon
