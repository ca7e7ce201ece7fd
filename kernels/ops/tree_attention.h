// tree_attention: attention of N tree nodes over the committed rows and their own ancestors, one layer of a list of sessions.
//
//   out[n,h] = sum over r of softmax_r(q[n,h] . k[g,r] / sqrt(D)) * v[g,r],   g = h / (Hq / Hkv)
//              r over the rows 0..R-1 and the rows of n's path
//
//   q      query rows    [N, Hq, D]         rotated at position + depth(n), as rope_append leaves them
//   kv     f32|f16|bf16  [Hkv][R + N, D]    rows 0..R-1 committed, R..R+N-1 this step's nodes
//   paths  i32           [N, path_stride]   nodes from the root to n, depth(n) + 1 of them
//   out    operand       [N, Hq * D]        as the backend's products take it; does not alias q
//
// Limits      1 <= N <= 64 per session; R >= 0; D <= 256; Hq % Hkv == 0.
// Numerics    as causal_attention.
// Row result  equal, bit for bit, to plain decoding of the node's path: its keys are taken in the order and in the chunks they would have
//             if its ancestors were committed. Independent of the other nodes, of the other sessions and of the threads.
// Cost        reads 2*Hkv*(R+N)*D elements per session; 4*N*Hq*R*D flops.
// Errors      ERR_OUT_OF_MEMORY.
// Source      Medusa paper, "Tree Attention".
// See         test/oracle/attention.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"
#include "ops/pass_item.h"

namespace gorgon {

struct TreeAttentionArgs {
  const void* q;
  /** In elements: CPU floats, CUDA values of `dtype`. */
  int64_t q_stride;
  /** [item_count], in the backend's memory; all of them trees. */
  const PassItem* items;
  int64_t item_count;
  /** Rows of the pass, over all items. */
  int64_t tokens;
  /** No item has more rows, its own tokens included. What is launched may depend on it, what comes out does not. */
  int64_t most_rows;
  int64_t layer;
  DType dtype;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t window;
  void* out;
  int64_t out_stride;
  /** CUDA: no item's split_rows is smaller; 0: kLeastSplitRows. Sizes scratch and launches, as most_rows does. */
  int64_t least_split_rows = 0;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status tree_attention_cpu(const TreeAttentionArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status tree_attention_cuda(const TreeAttentionArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
