// Packing of row-major weights into tiles, at load time.
#include "ops/linear.h"

namespace gorgon {

void pack_columns(const void* source, DType from, std::byte* tiles, DType to, int64_t depth, int64_t offset, int64_t first, int64_t last) {
  const int64_t bytes = tile_bytes(to), depth_tiles = divide_up(depth, kTileDepth);
  const bool same_bits = from == to && to != DType::kF32;
  for (int64_t n = first; n < last; ++n) {
    const int64_t column = offset + n;
    for (int64_t k = 0; k < depth; ++k) {
      std::byte* tile = tiles + (column / kTileColumns * depth_tiles + k / kTileDepth) * bytes;
      const int64_t at = tile_element(to, k % kTileDepth, column % kTileColumns);
      if (same_bits) {
        std::memcpy(tile + at * 2, static_cast<const char*>(source) + (n * depth + k) * 2, 2);
      } else {
        store_element(to, tile, at, load_element(from, source, n * depth + k));
      }
    }
  }
}

}  // namespace gorgon
