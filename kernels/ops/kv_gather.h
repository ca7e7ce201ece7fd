// kv_gather: moves chosen rows of a cache together, in place: compression keeps the best rows, commit keeps the accepted path.
//
//   cache    [Hkv]     row `first` + i becomes what row `first` + rows[h][i] was, positions too
//   rows     i32       [Hkv, count], each strictly ascending
//
// Strictly ascending rows satisfy rows[i] >= i, so going up in i never overwrites a row that is still to be read.
//
// Limits      0 <= rows[h][i]; rows past the last kept one keep stale values.
// Errors      none.
// See         test/oracle/kv.ts
#pragma once

#include "ops/kv_append.h"

namespace gorgon {

struct KvGatherArgs {
  /** [Hkv], in the backend's memory: of a layer, or of several. */
  const KvHead* heads;
  int64_t kv_heads;
  int64_t head_dim;
  DType dtype;
  int64_t first;
  /** In the backend's memory. */
  const int32_t* rows;
  /** From one KV head's rows to the next's; 0: all heads move the same rows. */
  int64_t rows_stride;
  int64_t count;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status kv_gather_cpu(const KvGatherArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status kv_gather_cuda(const KvGatherArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
