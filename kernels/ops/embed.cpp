// embed on the CPU: a gather with widening.
#include "ops/embed.h"

#include "common/packed.h"

namespace gorgon::GORGON_ISA {

namespace {

/** One loop per dtype: the compiler makes vectors of them. */
void widen(const EmbedArgs& args, int64_t first, float* out) {
  if (args.dtype == DType::kBf16) {
    for (int64_t i = 0; i < args.width; ++i) out[i] = load_element(DType::kBf16, args.table, first + i);
  } else if (args.dtype == DType::kF16) {
    for (int64_t i = 0; i < args.width; ++i) out[i] = load_element(DType::kF16, args.table, first + i);
  } else {
    for (int64_t i = 0; i < args.width; ++i) out[i] = load_element(DType::kF32, args.table, first + i);
  }
}

}  // namespace

Status embed_cpu(const EmbedArgs& args, CpuContext& context) {
  constexpr int64_t kTokensPerTask = 64;
  context.pool.run(divide_up(args.tokens, kTokensPerTask), [&](int64_t task, int) {
    const int64_t last = (task + 1) * kTokensPerTask < args.tokens ? (task + 1) * kTokensPerTask : args.tokens;
    for (int64_t token = task * kTokensPerTask; token < last; ++token) {
      widen(args, static_cast<int64_t>(args.ids[token]) * args.width, args.out + token * args.out_stride);
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
