// rms_norm on the CPU: one row at a time, rows split over the threads when there are many.
#include "ops/rms_norm.h"

#include "common/packed.h"
#include "common/simd.h"

namespace gorgon::GORGON_ISA {

namespace {

void norm_row(const RmsNormArgs& args, int64_t row) {
  const float* x = args.x + row * args.x_stride;
  float* out = static_cast<float*>(args.out) + row * args.out_stride;
  const bool as_bf16 = args.dtype == DType::kBf16;
  F32x16 squares = zero();
  for (int64_t i = 0; i < args.width; i += kLanes) {
    const F32x16 value = load_first(x + i, args.width - i);
    squares = fma(value, value, squares);
  }
  const float mean = reduce_sum(squares) / static_cast<float>(args.width);
  const F32x16 scale = broadcast(1.0f / std::sqrt(mean + args.eps));
  for (int64_t i = 0; i < args.width; i += kLanes) {
    const int64_t count = args.width - i;
    const F32x16 value = load_first(x + i, count) * scale * load_first(args.weight + i, count);
    store_first(out + i, as_bf16 ? round_bf16(value) : value, count);
  }
}

}  // namespace

Status rms_norm_cpu(const RmsNormArgs& args, CpuContext& context) {
  // Below some thousand values a second thread costs more than it brings.
  constexpr int64_t kValuesPerTask = 8192;
  const int64_t rows_per_task = divide_up(kValuesPerTask, args.width);
  context.pool.run(divide_up(args.rows, rows_per_task), [&](int64_t task, int) {
    const int64_t end = (task + 1) * rows_per_task < args.rows ? (task + 1) * rows_per_task : args.rows;
    for (int64_t row = task * rows_per_task; row < end; ++row) norm_row(args, row);
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
