// pack_weight on the CPU: tile by tile through registers; a task goes over whole rows of the source, so that memory is read in its order.
#include "ops/pack_weight.h"

#include "ops/tile_packing.h"

namespace gorgon::GORGON_ISA {

namespace {

/** Rows become columns: a task is a column block. */
template <DType dtype>
void pack_plain(const PackWeightArgs& args, CpuContext& context) {
  std::byte* tiles = static_cast<std::byte*>(args.tiles);
  context.pool.run(divide_up(args.rows, kTileColumns), [&](int64_t block, int) {
    const int64_t row = block * kTileColumns;
    const float* source = args.source + row * args.depth;
    std::byte* tile = tiles + block * column_block_bytes(dtype, args.depth);
    for (int64_t k = 0; k < args.depth; k += kTileDepth, tile += tile_bytes(dtype)) {
      pack_column_tile<dtype>(source + k, args.depth, args.rows - row, args.depth - k, tile);
    }
  });
}

/** Rows become depth: a task is a depth tile of all column blocks. */
template <DType dtype>
void pack_transposed(const PackWeightArgs& args, CpuContext& context) {
  context.pool.run(divide_up(args.rows, kTileDepth), [&](int64_t depth_tile, int) {
    const int64_t row = depth_tile * kTileDepth;
    const float* source = args.source + row * args.depth;
    std::byte* tile = static_cast<std::byte*>(args.tiles) + depth_tile * tile_bytes(dtype);
    for (int64_t k = 0; k < args.depth; k += kTileColumns, tile += column_block_bytes(dtype, args.rows)) {
      pack_depth_tile<dtype>(source + k, args.depth, args.rows - row, args.depth - k, tile);
    }
  });
}

template <DType dtype>
void pack_as(const PackWeightArgs& args, CpuContext& context) {
  if (args.transposed) {
    pack_transposed<dtype>(args, context);
  } else {
    pack_plain<dtype>(args, context);
  }
}

}  // namespace

Status pack_weight_cpu(const PackWeightArgs& args, CpuContext& context) {
  switch (args.dtype) {
    case DType::kF32:
      pack_as<DType::kF32>(args, context);
      break;
    case DType::kF16:
      pack_as<DType::kF16>(args, context);
      break;
    case DType::kBf16:
      pack_as<DType::kBf16>(args, context);
      break;
    case DType::kInt8:  // not trained
      break;
  }
  return {};
}

}  // namespace gorgon::GORGON_ISA
