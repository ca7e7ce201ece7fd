// top_k on the CPU. Several rows: a task is some of them. One row for many threads: a task is a piece of it, which leaves its k best ranks,
// and a second loop merges them. Ranks are all different, so neither the pieces nor their order shows in the result.
#include "ops/top_k.h"

#include <cstdio>

#include "common/packed.h"
#include "ops/best_list.h"

namespace gorgon::GORGON_ISA {

namespace {

/** Fewer columns would cost more to hand to a thread than to read. */
constexpr int64_t kTaskColumns = 32768;

void write_ids(const BestList& list, int32_t* ids) {
  for (int i = 0; i < list.count; ++i) ids[i] = rank_id(list.ranks[i]);
}

}  // namespace

Status top_k_cpu(const TopKArgs& args, CpuContext& context) {
  if (args.k < 1 || args.k > kMaxTopK || args.k > args.columns || args.columns > INT32_MAX) {
    char message[160];
    std::snprintf(message, sizeof message, "top_k: k is %lld for %lld columns. Use 1 to %d, and no more than there are columns.",
                  static_cast<long long>(args.k), static_cast<long long>(args.columns), kMaxTopK);
    return {StatusCode::kShape, message};
  }
  const int threads = context.pool.threads();
  int64_t pieces = 1;
  if (args.rows > 0 && args.rows < threads) {
    const int64_t useful = args.columns / kTaskColumns, wanted = divide_up(threads, args.rows);
    pieces = useful < 1 ? 1 : useful < wanted ? useful : wanted;
  }
  if (pieces == 1) {
    const int64_t useful = args.rows * args.columns / kTaskColumns, tasks = useful < 1 ? 1 : useful < args.rows ? useful : args.rows;
    context.pool.run(tasks, [&](int64_t task, int) {
      for (int64_t row = args.rows * task / tasks; row < args.rows * (task + 1) / tasks; ++row) {
        BestList best(args.k);
        offer_row(best, args.scores + row * args.stride, 0, args.columns);
        write_ids(best, args.ids + row * args.k);
      }
    });
    return {};
  }

  // u64 [M, pieces, k]; a piece of fewer than k columns leaves zeros, which no rank is.
  uint64_t* found = nullptr;
  GORGON_TRY(context.scratch.get(args.rows * pieces * args.k, &found));
  context.pool.run(args.rows * pieces, [&](int64_t task, int) {
    const int64_t row = task / pieces, piece = task % pieces;
    BestList best(args.k);
    offer_row(best, args.scores + row * args.stride, args.columns * piece / pieces, args.columns * (piece + 1) / pieces);
    for (int i = 0; i < args.k; ++i) found[task * args.k + i] = i < best.count ? best.ranks[i] : 0;
  });
  context.pool.run(args.rows, [&](int64_t row, int) {
    BestList best(args.k);
    for (int64_t i = 0; i < pieces * args.k; ++i) offer(best, found[row * pieces * args.k + i]);
    write_ids(best, args.ids + row * args.k);
  });
  return {};
}

}  // namespace gorgon::GORGON_ISA
