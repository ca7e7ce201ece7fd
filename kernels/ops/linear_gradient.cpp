// linear_gradient on the CPU: the product of transposed rows, dy's from the left, x's packed as a weight of depth M.
//
// x is packed once, for all. A task is some rows of dw: it transposes their columns of dy, and goes over x block by block, some depth at a time,
// so that the tiles stay in the first-level cache while the rows go over them.
#include "ops/linear_gradient.h"

#include "ops/tile_packing.h"
#include "ops/tile_product.h"

namespace gorgon::GORGON_ISA {

namespace {

/** Rows of dw that a task takes at most: what they need of dy stays in the second-level cache. */
constexpr int64_t kMostRows = 96;
#if GORGON_SIMD_AMX
// Tiles pack the rows they are given, some depth at a time, for each run of blocks: so these are long, and the depth is whole.
constexpr int64_t kBlocks = 12, kPassTiles = int64_t{1} << 30;
#else
constexpr int64_t kBlocks = 3, kPassTiles = 4;
#endif

/** Of x's tiles. The bits do not depend on it: bf16 values are f32 values. */
DType packed_dtype(DType dtype) {
#if GORGON_SIMD_AMX
  if (dtype == DType::kBf16) return DType::kBf16;
#endif
  static_cast<void>(dtype);
  return DType::kF32;
}

/** Depth tile `tile` of x's transpose, all its column blocks. */
template <DType dtype>
void pack_rows(const LinearGradientArgs& args, int64_t tile, std::byte* tiles) {
  const int64_t row = tile * kTileDepth;
  const float* x = static_cast<const float*>(args.x) + row * args.x_stride;
  for (int64_t block = 0; block < divide_up(args.depth, kTileColumns); ++block) {
    pack_depth_tile<dtype>(x + block * kTileColumns, args.x_stride, args.rows - row, kTileColumns,
                           tiles + block * column_block_bytes(dtype, args.rows) + tile * tile_bytes(dtype));
  }
}

/** Columns [first, last) of dy as rows of `stride` values, zeros past M. */
void transpose_columns(const LinearGradientArgs& args, int64_t first, int64_t last, float* rows, int64_t stride) {
  for (int64_t m = 0; m < round_up(args.rows, kTileDepth); m += kLanes) {
    const float* dy = static_cast<const float*>(args.dy) + m * args.dy_stride;
    for (int64_t n = first; n < last; n += kLanes) {
      F32x16 lanes[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) lanes[i] = m + i < args.rows ? load(dy + i * args.dy_stride + n) : zero();
      transpose(lanes);
      for (int64_t i = 0; i < kLanes; ++i) store(rows + (n - first + i) * stride + m, lanes[i]);
    }
  }
}

float sum_row(const float* row, int64_t count) {
  F32x16 sum = zero();
  for (int64_t i = 0; i < count; i += kLanes) sum = sum + load(row + i);
  return reduce_sum(sum);
}

/** Adds to rows [first, first + rows) of dw their products with x: `dy` holds them, transposed. */
void add_products(const LinearGradientArgs& args, const PackedMatrix& x, const float* dy, int64_t stride, int64_t first, int64_t rows) {
  constexpr int64_t kWidth = kBlocks * kTileColumns;
  alignas(64) float sums[kMostRows * kWidth];
  const int64_t blocks = x.column_blocks(), deep = x.depth_tiles();
  for (int64_t block = 0; block < blocks; block += kBlocks) {
    const int64_t last_block = block + kBlocks < blocks ? block + kBlocks : blocks;
    const int64_t column = block * kTileColumns, columns = last_block * kTileColumns < args.depth ? kWidth : args.depth - column;
    float* dw = args.dw + first * args.depth + column;
    for (int64_t n = 0; n < rows; ++n) {
      // Sums in memory are on their way while their products are computed.
      for (int64_t k = 0; k < columns; k += kLanes) __builtin_prefetch(dw + n * args.depth + k, 1, 2);
    }
    for (int64_t tile = 0; tile < deep; tile += kPassTiles) {
      PackedMatrix pass = x;
      pass.tiles = x.tile(0, tile);
      pass.depth = (tile + kPassTiles < deep ? kPassTiles : deep - tile) * kTileDepth;
      tile_product(dy + tile * kTileDepth, stride, rows, pass, block, last_block, sums, kWidth, tile > 0);
    }
    tile_memory_is_written();
    for (int64_t n = 0; n < rows; ++n) {
      for (int64_t k = 0; k < columns; ++k) dw[n * args.depth + k] += sums[n * kWidth + k];
    }
  }
}

}  // namespace

Status linear_gradient_cpu(const LinearGradientArgs& args, CpuContext& context) {
  const DType dtype = packed_dtype(args.dtype);
  const int64_t threads = context.pool.threads(), deep = round_up(args.rows, kTileDepth);
  const int64_t share = round_up(divide_up(args.columns, threads), kLanes), task_rows = share < kMostRows ? share : kMostRows;
  // A line more than the depth: at a power of two, what is stored of a transposed tile would meet in one set of the first-level cache.
  const int64_t stride = deep + kLanes, packed_bytes = packed_weight_bytes(dtype, args.depth, args.rows);
  const int64_t transposed_bytes = task_rows * stride * static_cast<int64_t>(sizeof(float));
  std::byte* scratch = nullptr;
  GORGON_TRY(context.scratch.get(packed_bytes + threads * transposed_bytes, &scratch));
  context.pool.run(deep / kTileDepth, [&](int64_t tile, int) {
    if (dtype == DType::kBf16) {
      pack_rows<DType::kBf16>(args, tile, scratch);
    } else {
      pack_rows<DType::kF32>(args, tile, scratch);
    }
  });
  const PackedMatrix x = packed_weight(scratch, dtype, args.depth, args.rows);
  context.pool.run(divide_up(args.columns, task_rows), [&](int64_t task, int thread) {
    const int64_t first = task * task_rows, rows = first + task_rows < args.columns ? task_rows : args.columns - first;
    float* dy = reinterpret_cast<float*>(scratch + packed_bytes + thread * transposed_bytes);
    transpose_columns(args, first, first + rows, dy, stride);
    if (args.db != nullptr) {
      for (int64_t n = 0; n < rows; ++n) args.db[first + n] += sum_row(dy + n * stride, deep);
    }
    add_products(args, x, dy, stride, first, rows);
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
