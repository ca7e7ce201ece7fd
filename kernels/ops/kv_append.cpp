// kv_append on the CPU: a task writes some tokens' rows of one KV head.
#include "ops/kv_append.h"

namespace gorgon::GORGON_ISA {

Status kv_append_cpu(const KvAppendArgs& args, CpuContext& context) {
  constexpr int64_t kTokensPerTask = 64;
  const int64_t blocks = divide_up(args.tokens, kTokensPerTask);
  context.pool.run(blocks * args.kv_heads, [&](int64_t task, int) {
    const int64_t kv_head = task / blocks, block = task % blocks;
    const MutableKvHead& head = args.heads[kv_head];
    const int64_t last = (block + 1) * kTokensPerTask < args.tokens ? (block + 1) * kTokensPerTask : args.tokens;
    for (int64_t token = block * kTokensPerTask; token < last; ++token) {
      store_kv_row(args.dtype, args.head_dim, head.k, head.v, args.rows + token, args.k + token * args.k_stride + kv_head * args.head_dim,
                   args.v + token * args.v_stride + kv_head * args.head_dim);
      if (head.positions != nullptr) {
        head.positions[args.rows + token] = static_cast<int32_t>(args.position + (args.depths != nullptr ? args.depths[token] : token));
      }
    }
    if (block == blocks - 1) clear_group_tail(args.dtype, args.head_dim, head.k, head.v, args.rows + args.tokens);
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
