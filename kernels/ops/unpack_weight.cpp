// unpack_weight on the CPU: sixteen columns by sixteen of depth at a time, transposed in registers; a task is a column block.
#include "ops/unpack_weight.h"

#include "common/transpose.h"
#include "ops/tile_product.h"

namespace gorgon::GORGON_ISA {

namespace {

template <DType dtype>
void unpack_as(const UnpackWeightArgs& args, CpuContext& context) {
  const PackedMatrix& w = args.w;
  context.pool.run(w.column_blocks(), [&](int64_t block, int) {
    const int64_t column = block * kTileColumns, columns = column + kTileColumns < w.columns ? kTileColumns : w.columns - column;
    F32x16 scale = broadcast(1.0f);
    if constexpr (dtype == DType::kInt8) scale = load(w.scales(block));
    for (int64_t k = 0; k < w.depth; k += kLanes) {
      F32x16 lanes[kLanes];
      const int pair = static_cast<int>(k % kTileDepth / 2);
      for (int i = 0; i < kLanes; i += 2) {
        tile::load_pair<dtype>(w.tile(block, k / kTileDepth), pair + i / 2, lanes[i], lanes[i + 1]);
      }
      if constexpr (dtype == DType::kInt8) {
        for (F32x16& value : lanes) value = value * scale;
      }
      transpose(lanes);
      for (int64_t n = 0; n < columns; ++n) store_first(args.out + (column + n) * w.depth + k, lanes[n], w.depth - k);
    }
  });
}

}  // namespace

Status unpack_weight_cpu(const UnpackWeightArgs& args, CpuContext& context) {
  switch (args.w.dtype) {
    case DType::kF32:
      unpack_as<DType::kF32>(args, context);
      break;
    case DType::kF16:
      unpack_as<DType::kF16>(args, context);
      break;
    case DType::kBf16:
      unpack_as<DType::kBf16>(args, context);
      break;
    case DType::kInt8:
      unpack_as<DType::kInt8>(args, context);
      break;
  }
  return {};
}

}  // namespace gorgon::GORGON_ISA
