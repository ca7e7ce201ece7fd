// adamw on the CPU: sixteen weights at a time; a contiguous share for each thread.
#include "ops/adamw.h"

#include "common/packed.h"
#include "common/simd.h"

namespace gorgon::GORGON_ISA {

Status adamw_cpu(const AdamwArgs& args, CpuContext& context) {
  // Below some thousand values a second thread costs more than it brings.
  constexpr int64_t kLeastVectors = 256;
  const F32x16 gradient_scale = broadcast(args.gradient_scale), rate = broadcast(args.rate), epsilon = broadcast(args.epsilon);
  const F32x16 beta1 = broadcast(args.beta1), rest1 = broadcast(1.0f - args.beta1), correction1 = broadcast(args.correction1);
  const F32x16 beta2 = broadcast(args.beta2), rest2 = broadcast(1.0f - args.beta2), correction2 = broadcast(args.correction2);
  const F32x16 decay = broadcast(args.decay);
  const auto step = [&](int64_t first, int64_t last, int) {
    for (int64_t i = first * kLanes; i < last * kLanes; i += kLanes) {
      const int64_t count = args.count - i;
      const F32x16 w = load_first(args.weights + i, count), g = gradient_scale * load_first(args.gradient + i, count);
      const F32x16 m = beta1 * load_first(args.mean + i, count) + rest1 * g;
      const F32x16 v = beta2 * load_first(args.variance + i, count) + rest2 * g * g;
      const F32x16 direction = m / correction1 / (sqrt(v / correction2) + epsilon);
      store_first(args.weights + i, w - rate * (direction + decay * w), count);
      store_first(args.mean + i, m, count);
      store_first(args.variance + i, v, count);
      store_first(args.gradient + i, zero(), count);
    }
  };
  context.pool.run_ranges(divide_up(args.count, kLanes), step, kLeastVectors);
  return {};
}

}  // namespace gorgon::GORGON_ISA
