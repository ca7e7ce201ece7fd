// rope on the CPU: sixteen pairs at a time; tokens split over the threads when there are many.
#include "ops/rope.h"

#include "common/packed.h"
#include "common/simd.h"

namespace gorgon::GORGON_ISA {

Status rope_cpu(const RopeArgs& args, CpuContext& context) {
  constexpr int64_t kTokensPerTask = 32;
  const int64_t half = args.head_dim / 2;
  context.pool.run(divide_up(args.tokens, kTokensPerTask), [&](int64_t task, int) {
    const int64_t last = (task + 1) * kTokensPerTask < args.tokens ? (task + 1) * kTokensPerTask : args.tokens;
    for (int64_t token = task * kTokensPerTask; token < last; ++token) {
      const float* cos = args.cos + token * half;
      const float* sin = args.sin + token * half;
      for (int64_t head = 0; head < args.heads; ++head) {
        const float* x = args.x + token * args.x_stride + head * args.head_dim;
        float* out = args.out + token * args.out_stride + head * args.out_head_stride;
        for (int64_t i = 0; i < half; i += kLanes) {
          const int64_t count = half - i;
          const F32x16 a = load_first(x + i, count), b = load_first(x + half + i, count);
          const F32x16 c = load_first(cos + i, count), s = load_first(sin + i, count);
          const F32x16 low = a * c - b * s, high = b * c + a * s;
          store_first(out + i, args.as_bf16 ? round_bf16(low) : low, count);
          store_first(out + half + i, args.as_bf16 ? round_bf16(high) : high, count);
        }
      }
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
