// causal_attention: attention of T new tokens over the rows before them and themselves, one layer of one session.
//
//   out[t,h] = sum over r <= R + t of softmax_r(q[t,h] . k[g,r] / sqrt(D)) * v[g,r],   g = h / (Hq / Hkv)
//
//   q     query rows    [T, Hq, D]       rotated, as rope_append leaves them
//   kv    f32|f16|bf16  [Hkv][R + T, D]  rows R..R+T-1 are the new tokens' own, already stored
//   out   operand       [T - skip, Hq * D]  of the tokens from `skip` on, as the backend's products take it; does not alias q
//
// Limits      T >= 1; R >= 0; D <= 256; Hq % Hkv == 0. `window` > 0 hides keys `window` or more positions back.
// Numerics    f32; weights are rounded to bf16 before they meet bf16 values; chunks as in attention_state.h.
// Row result  a function of the row's own number of keys: equal, bit for bit, to the same row of any other split of the prompt into calls,
//             and on the CPU to the same row of tree_attention.
// Cost        4*T*Hq*(R + T/2)*D flops.
// Errors      ERR_OUT_OF_MEMORY.
// Source      FlashAttention-2 paper, "Algorithm", online softmax.
// See         test/oracle/attention.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"
#include "ops/kv_layout.h"

namespace gorgon {

struct CausalAttentionArgs {
  const void* q;
  /** In elements: CPU floats, CUDA values of `dtype`. */
  int64_t q_stride;
  /** [Hkv], in the backend's memory. */
  const KvHead* heads;
  DType dtype;
  int64_t tokens;
  /** First tokens whose results nobody needs. */
  int64_t skip;
  int64_t rows;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  /** Position of the first new token. */
  int64_t position;
  int64_t window;
  void* out;
  int64_t out_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status causal_attention_cpu(const CausalAttentionArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status causal_attention_cuda(const CausalAttentionArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
