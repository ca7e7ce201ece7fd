// linear on the CPU: every thread takes a contiguous run of column blocks and keeps their weights in its cache while it goes over the rows.
#include "ops/linear.h"

#include "ops/tile_product.h"

namespace gorgon::GORGON_ISA {

namespace {

// Columns per task: as many blocks as the widest register tile takes. Small enough to balance, wide enough to read x seldom.
constexpr int64_t kBlocksPerTask = 3;
// Rows whose inputs stay in the second-level cache while a task goes over them.
constexpr int64_t kRowsPerPass = 96;

/** `scales` are of int8 columns, else null. */
void finish_rows(const LinearArgs& args, const float* sums, int64_t sums_stride, const float* scales, int64_t row, int64_t rows,
                 int64_t column, int64_t columns) {
  for (int64_t m = 0; m < rows; ++m) {
    const float* sum = sums + m * sums_stride;
    float* out = args.out + (row + m) * args.out_stride + column;
    for (int64_t n = 0; n < columns; ++n) {
      float value = scales != nullptr ? sum[n] * scales[n] : sum[n];
      if (args.bias != nullptr) value += args.bias[column + n];
      out[n] = args.add ? out[n] + value : value;
    }
  }
}

}  // namespace

Status linear_cpu(const LinearArgs& args, CpuContext& context) {
  const int64_t blocks = args.w.column_blocks();
  const int64_t tasks = divide_up(blocks, kBlocksPerTask);
  constexpr int64_t kWidth = kBlocksPerTask * kTileColumns;
  context.pool.run_ranges(tasks, [&](int64_t begin, int64_t end, int) {
    alignas(64) float sums[kRowsPerPass * kWidth];
    float scales[kWidth];
    const bool scaled = args.w.dtype == DType::kInt8;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kBlocksPerTask;
      const int64_t last = first + kBlocksPerTask < blocks ? first + kBlocksPerTask : blocks;
      const int64_t column = first * kTileColumns;
      const int64_t columns = last * kTileColumns < args.w.columns ? last * kTileColumns - column : args.w.columns - column;
      for (int64_t block = first; scaled && block < last; ++block) {
        std::memcpy(scales + (block - first) * kTileColumns, args.w.scales(block), kTileColumns * sizeof(float));
      }
      for (int64_t row = 0; row < args.rows; row += kRowsPerPass) {
        const int64_t rows = row + kRowsPerPass < args.rows ? kRowsPerPass : args.rows - row;
        tile_product(args.x + row * args.x_stride, args.x_stride, rows, args.w, first, last, sums, kWidth, false);
        finish_rows(args, sums, kWidth, scaled ? scales : nullptr, row, rows, column, columns);
      }
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
