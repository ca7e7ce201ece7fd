// snapkv_select: votes to kept rows, per KV head.
//
//   g[kvh, j]  = mean (or max) over the query heads of kvh of votes[h, j]
//   s[kvh, j]  = max (or average) of g[kvh, j - p/2 .. j + p/2]
//   rows[kvh]  = the `count` rows of largest s, ties to the lower row, in rising order
//
//   votes  f32  [Hq, votes_stride]
//   rows   i32  [Hkv, rows_stride]
//
// Limits      0 <= count <= n; pool size p odd.
// Numerics    f32. Edges: a maximum ignores what is outside; an average counts it as zero and always divides by p.
// Result      independent of the threads.
// Errors      ERR_OUT_OF_MEMORY.
// Source      SnapKV paper, "Efficient Clustering via Pooling"; group mean: NVIDIA/kvpress:kvpress/presses/snapkv_press.py
// See         test/oracle/snapkv.ts
#pragma once

#include "common/context.h"
#include "common/dtype.h"

namespace gorgon {

enum class Pool { kMax, kAverage };
enum class GroupReduce { kMean, kMax };

struct SnapkvSelectArgs {
  const float* votes;
  int64_t votes_stride;
  int64_t query_heads;
  int64_t kv_heads;
  /** Rows that may be chosen: 0..n-1. */
  int64_t n;
  Pool pool;
  int64_t pool_size;
  GroupReduce group_reduce;
  int64_t count;
  /** In the backend's memory, as votes. */
  int32_t* rows;
  int64_t rows_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status snapkv_select_cpu(const SnapkvSelectArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status snapkv_select_cuda(const SnapkvSelectArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
