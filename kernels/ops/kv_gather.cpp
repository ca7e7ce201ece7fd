// kv_gather on the CPU: a task moves the rows of one KV head, in rising order.
#include "ops/kv_gather.h"

namespace gorgon::GORGON_ISA {

Status kv_gather_cpu(const KvGatherArgs& args, CpuContext& context) {
  // A path's few rows are moved sooner than a second thread is told of them.
  constexpr int64_t kValuesPerThread = 4096;
  const auto move = [&](int64_t kv_head) {
    const KvHead& head = args.heads[kv_head];
    const int32_t* rows = args.rows + kv_head * args.rows_stride;
    for (int64_t i = 0; i < args.count; ++i) {
      if (rows[i] == i) continue;
      copy_kv_row(args.dtype, args.head_dim, head.k, head.v, args.first + rows[i], args.first + i);
      if (head.positions != nullptr) head.positions[args.first + i] = head.positions[args.first + rows[i]];
    }
  };
  context.pool.run_ranges(
      args.kv_heads,
      [&](int64_t first, int64_t last, int) {
        for (int64_t kv_head = first; kv_head < last; ++kv_head) move(kv_head);
      },
      divide_up(kValuesPerThread, args.count * args.head_dim + 1));
  return {};
}

}  // namespace gorgon::GORGON_ISA
