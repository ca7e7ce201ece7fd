// kv_append on the CPU: a task writes some tokens' rows of one KV head, in whole groups of rows.
#include "ops/kv_append.h"

namespace gorgon::GORGON_ISA {

Status kv_append_cpu(const KvAppendArgs& args, CpuContext& context) {
  constexpr int64_t kRowsPerTask = 2 * kRowGroup;
  // Below some thousand values a second thread costs more than it brings.
  constexpr int64_t kValuesPerThread = 4096;
  const int64_t end = args.rows + args.tokens;
  const int64_t first_block = args.rows / kRowsPerTask, blocks = divide_up(end, kRowsPerTask) - first_block;
  const int64_t task_rows = args.tokens < kRowsPerTask ? args.tokens : kRowsPerTask;
  const auto write = [&](int64_t task) {
    const KvHead& head = args.heads[task / blocks];
    const int64_t kv_head = task / blocks, block = first_block + task % blocks;
    const int64_t first = block * kRowsPerTask < args.rows ? args.rows : block * kRowsPerTask;
    const int64_t last = (block + 1) * kRowsPerTask < end ? (block + 1) * kRowsPerTask : end;
    for (int64_t row = first; row < last; ++row) {
      const int64_t token = row - args.rows;
      store_kv_row(args.dtype, args.head_dim, head.k, head.v, row, args.k + token * args.k_stride + kv_head * args.head_dim,
                   args.v + token * args.v_stride + kv_head * args.head_dim);
      if (head.positions != nullptr) {
        head.positions[row] = static_cast<int32_t>(args.position + (args.depths != nullptr ? args.depths[token] : token));
      }
    }
    if (last == end) clear_group_tail(args.dtype, args.head_dim, head.k, head.v, end);
  };
  context.pool.run_ranges(
      blocks * args.kv_heads,
      [&](int64_t first, int64_t last, int) {
        for (int64_t task = first; task < last; ++task) write(task);
      },
      divide_up(kValuesPerThread, task_rows * args.head_dim));
  return {};
}

}  // namespace gorgon::GORGON_ISA
