// tree_attention: attention of N tree nodes over the committed rows and their own ancestors, one layer of a list of sessions.
//
//   out[n,h] = sum over r of softmax_r(q[n,h] . k[g,r] / sqrt(D)) * v[g,r],   g = h / (Hq / Hkv)
//              r over the rows 0..R-1 and the rows of n's path
//
//   q      f32           [N, Hq, D']        rotated at position + depth(n); D' and zeros as in causal_attention
//   kv     f32|f16|bf16  [Hkv][R + N, D]    rows 0..R-1 committed, R..R+N-1 this step's nodes
//   paths  i32           [N, path_stride]   nodes from the root to n, depth(n) + 1 of them
//   out    f32           [N, out_stride]    head h at h * D; bf16 values when the cache is bf16; does not alias q
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
#include "ops/kv_layout.h"

namespace gorgon {

constexpr int kMaxTreeNodes = 64;

/** One session's nodes. */
struct TreeAttentionItem {
  const float* q;
  /** [Hkv]. */
  const KvHead* heads;
  int64_t nodes;
  int64_t rows;
  const int32_t* depths;
  const int32_t* paths;
  int64_t path_stride;
  /** Of the root. */
  int64_t position;
  float* out;
};

struct TreeAttentionArgs {
  const TreeAttentionItem* items;
  int64_t item_count;
  DType dtype;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t window;
  int64_t out_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status tree_attention_cpu(const TreeAttentionArgs& args, CpuContext& context);
}
#endif

}  // namespace gorgon
