// silu_mul on the CPU: sixteen values at a time; rows split over the threads when there are many.
#include "ops/silu_mul.h"

#include "common/packed.h"
#include "ops/silu.h"

namespace gorgon::GORGON_ISA {

Status silu_mul_cpu(const SiluMulArgs& args, CpuContext& context) {
  constexpr int64_t kColumnsPerTask = 512;
  // Below some thousand values a second thread costs more than it brings.
  constexpr int64_t kTasksPerThread = 4;
  const bool as_bf16 = args.dtype == DType::kBf16;
  const int64_t tasks_per_row = divide_up(args.width, kColumnsPerTask);
  const auto gate_tasks = [&](int64_t first, int64_t last, int) {
    for (int64_t task = first; task < last; ++task) {
      const int64_t row = task / tasks_per_row, begin = task % tasks_per_row * kColumnsPerTask;
      const int64_t end = begin + kColumnsPerTask < args.width ? begin + kColumnsPerTask : args.width;
      const float* gate = args.x + row * args.x_stride;
      const float* up = gate + args.width;
      float* out = static_cast<float*>(args.out) + row * args.out_stride;
      for (int64_t i = begin; i < end; i += kLanes) {
        const F32x16 value = silu(load_first(gate + i, end - i)) * load_first(up + i, end - i);
        store_first(out + i, as_bf16 ? round_bf16(value) : value, end - i);
      }
    }
  };
  context.pool.run_ranges(args.rows * tasks_per_row, gate_tasks, kTasksPerThread);
  return {};
}

}  // namespace gorgon::GORGON_ISA
