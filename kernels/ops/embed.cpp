// embed on the CPU: a gather with widening.
#include "ops/embed.h"

#include "common/packed.h"

namespace gorgon::GORGON_ISA {

Status embed_cpu(const EmbedArgs& args, CpuContext& context) {
  constexpr int64_t kTokensPerTask = 64;
  context.pool.run(divide_up(args.tokens, kTokensPerTask), [&](int64_t task, int) {
    const int64_t last = (task + 1) * kTokensPerTask < args.tokens ? (task + 1) * kTokensPerTask : args.tokens;
    for (int64_t token = task * kTokensPerTask; token < last; ++token) {
      const int64_t first = static_cast<int64_t>(args.ids[token]) * args.width;
      for (int64_t i = 0; i < args.width; ++i) args.out[token * args.out_stride + i] = load_element(args.dtype, args.table, first + i);
    }
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
