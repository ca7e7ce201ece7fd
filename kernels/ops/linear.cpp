// linear on the CPU: every thread takes a contiguous run of column blocks and keeps their weights in its cache while it goes over the rows.
//
//   vectors          3 blocks by up to 96 rows at a time, whole depth
//   AMX, few rows    a decoding step: each thread packs the rows for itself and reads its weights once
//   AMX, a prompt    the rows are packed together once; then 12 blocks by 512 rows, 512 deep at a time, so that the columns of a product
//                    stay in the first-level cache and the rows in the second
#include "ops/linear.h"

#include "ops/tile_product.h"

namespace gorgon::GORGON_ISA {

namespace {

const float* input_row(const LinearArgs& args, int64_t row) { return static_cast<const float*>(args.x) + row * args.x_stride; }

/** Column blocks that any of the ways below takes at once. */
constexpr int64_t kMostBlocks = 12;

/** Sums of `rows` rows from `row`, for the columns of the blocks [first_block, last_block): scaled if int8, then bias, then residual. */
void finish(const LinearArgs& args, const float* sums, int64_t sums_stride, int64_t row, int64_t rows, int64_t first_block, int64_t last_block) {
  const int64_t column = first_block * kTileColumns;
  const int64_t columns = last_block * kTileColumns < args.w.columns ? last_block * kTileColumns - column : args.w.columns - column;
  const bool scaled = args.w.dtype == DType::kInt8;
  float scales[kMostBlocks * kTileColumns];
  for (int64_t block = first_block; scaled && block < last_block; ++block) {
    std::memcpy(scales + (block - first_block) * kTileColumns, args.w.scales(block), kTileColumns * sizeof(float));
  }
  for (int64_t m = 0; m < rows; ++m) {
    const float* sum = sums + m * sums_stride;
    float* out = args.out + (row + m) * args.out_stride + column;
    for (int64_t n = 0; n < columns; ++n) {
      float value = scaled ? sum[n] * scales[n] : sum[n];
      if (args.bias != nullptr) value += args.bias[column + n];
      out[n] = args.add ? out[n] + value : value;
    }
  }
}

/** Blocks that stay together when the columns are split: as many as go through the registers at once, fewer where threads would have none. */
int64_t unit_of(int64_t blocks, int64_t threads, int64_t widest) {
  const int64_t share = blocks / threads;
  return share >= widest ? widest : share > 1 ? share : 1;
}

/** Splits the column blocks over the threads, in units of at most `widest`, and calls visit(first_block, last_block, thread) for each share. */
template <class Visit>
void share_blocks(const LinearArgs& args, CpuContext& context, int64_t widest, const Visit& visit) {
  const int64_t blocks = args.w.column_blocks(), unit = unit_of(blocks, context.pool.threads(), widest);
  context.pool.run_ranges(divide_up(blocks, unit), [&](int64_t begin, int64_t end, int thread) {
    visit(begin * unit, end * unit < blocks ? end * unit : blocks, thread);
  });
}

/** Calls visit(first_block, last_block) for at most `most` blocks of [first_block, last_block) at once. */
template <class Visit>
void in_turn(int64_t first_block, int64_t last_block, int64_t most, const Visit& visit) {
  for (int64_t block = first_block; block < last_block; block += most) visit(block, block + most < last_block ? block + most : last_block);
}

void on_vectors(const LinearArgs& args, CpuContext& context) {
  // As many blocks as the widest register tile takes; rows whose inputs stay in the second-level cache while the blocks go over them.
  constexpr int64_t kBlocks = 3, kRows = 96, kWidth = kBlocks * kTileColumns;
  share_blocks(args, context, kBlocks, [&](int64_t begin, int64_t end, int) {
    alignas(64) float sums[kRows * kWidth];
    in_turn(begin, end, kBlocks, [&](int64_t first, int64_t last) {
      for (int64_t row = 0; row < args.rows; row += kRows) {
        const int64_t rows = row + kRows < args.rows ? kRows : args.rows - row;
        tile_product(input_row(args, row), args.x_stride, rows, args.w, first, last, sums, kWidth, false);
        finish(args, sums, kWidth, row, rows, first, last);
      }
    });
  });
}

#if GORGON_SIMD_AMX

using amx_tiles::kGroupRows;

/** Packs the depth tiles [first, last) of the row groups [first_group, last_group); group g's first tile is at packed + g * group_stride. */
void pack_rows(const LinearArgs& args, int64_t first_group, int64_t last_group, int64_t first, int64_t last, std::byte* packed, int64_t group_stride) {
  for (int64_t group = first_group; group < last_group; ++group) {
    const int64_t row = group * kGroupRows, rows = row + kGroupRows < args.rows ? kGroupRows : args.rows - row;
    amx_tiles::pack_group(input_row(args, row) + first * kTileDepth, args.x_stride, rows, last - first, packed + group * group_stride);
  }
  tile_memory_is_written();
}

/** Up to here every thread packs the rows for itself: less work than to wait for each other. */
constexpr int64_t kFewRows = 64;

Status on_tiles_few_rows(const LinearArgs& args, CpuContext& context) {
  constexpr int64_t kBlocks = 6, kWidth = kBlocks * kTileColumns;
  const int64_t deep = args.w.depth_tiles(), groups = divide_up(args.rows, kGroupRows), packed_bytes = groups * deep * amx_tiles::kRowTileBytes;
  std::byte* scratch = nullptr;
  GORGON_TRY(context.scratch.get(packed_bytes * context.pool.threads(), &scratch));
  share_blocks(args, context, args.rows > kGroupRows ? 2 : 3, [&](int64_t begin, int64_t end, int thread) {
    alignas(64) float sums[kFewRows * kWidth];
    std::byte* packed = scratch + thread * packed_bytes;
    pack_rows(args, 0, groups, 0, deep, packed, deep * amx_tiles::kRowTileBytes);
    amx_tiles::Tiles tiles;
    in_turn(begin, end, kBlocks, [&](int64_t first, int64_t last) {
      amx_tiles::product(tiles, {packed, deep * amx_tiles::kRowTileBytes, args.rows}, args.w, first, last, 0, deep, sums, kWidth, false);
      tile_memory_is_written();
      finish(args, sums, kWidth, 0, args.rows, first, last);
    });
  });
  return {};
}

/** Depth of a pass over the rows. Two column blocks of it take a third of the first-level cache. */
constexpr int64_t kPassTiles = 8;

Status on_tiles_prompt(const LinearArgs& args, CpuContext& context) {
  constexpr int64_t kRows = 512;
  const int64_t deep = args.w.depth_tiles(), passes = divide_up(deep, kPassTiles), groups = divide_up(args.rows, kGroupRows);
  const int64_t blocks = args.w.column_blocks(), threads = context.pool.threads();
  const int64_t share = round_up(divide_up(blocks, threads), 2), task_blocks = share < kMostBlocks ? share : kMostBlocks;
  const int64_t width = task_blocks * kTileColumns, sums_bytes = kRows * width * static_cast<int64_t>(sizeof(float));
  // All groups of a pass next to each other: at strides of a whole row they would meet in few sets of the second-level cache.
  const int64_t group_stride = kPassTiles * amx_tiles::kRowTileBytes, pass_stride = groups * group_stride;
  std::byte* scratch = nullptr;
  GORGON_TRY(context.scratch.get(passes * pass_stride + sums_bytes * threads, &scratch));
  const auto end_of = [&](int64_t pass) { return (pass + 1) * kPassTiles < deep ? (pass + 1) * kPassTiles : deep; };
  context.pool.run_ranges(groups, [&](int64_t begin, int64_t end, int) {
    for (int64_t pass = 0; pass < passes; ++pass) {
      pack_rows(args, begin, end, pass * kPassTiles, end_of(pass), scratch + pass * pass_stride, group_stride);
    }
  });
  context.pool.run(divide_up(blocks, task_blocks), [&](int64_t task, int thread) {
    float* sums = reinterpret_cast<float*>(scratch + passes * pass_stride + thread * sums_bytes);
    const int64_t first = task * task_blocks, last = first + task_blocks < blocks ? first + task_blocks : blocks;
    amx_tiles::Tiles tiles;
    for (int64_t row = 0; row < args.rows; row += kRows) {
      const int64_t rows = row + kRows < args.rows ? kRows : args.rows - row;
      for (int64_t pass = 0; pass < passes; ++pass) {
        const std::byte* a = scratch + pass * pass_stride + row / kGroupRows * group_stride;
        amx_tiles::product(tiles, {a, group_stride, rows}, args.w, first, last, pass * kPassTiles, end_of(pass), sums, width, pass > 0);
      }
      tile_memory_is_written();
      finish(args, sums, width, row, rows, first, last);
    }
  });
  return {};
}

#endif

}  // namespace

Status linear_cpu(const LinearArgs& args, CpuContext& context) {
#if GORGON_SIMD_AMX
  if (amx_tiles::pays(args.w.dtype, args.rows)) {
    return args.rows <= kFewRows ? on_tiles_few_rows(args, context) : on_tiles_prompt(args, context);
  }
#endif
  on_vectors(args, context);
  return {};
}

}  // namespace gorgon::GORGON_ISA
