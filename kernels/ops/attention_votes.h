// attention_votes: how much attention some queries pay to each row: what SnapKV's window and H2O's heavy hitters are chosen by.
//
//   votes[h, j] += sum over t of softmax_r(q[t,h] . k[g,r] / sqrt(D))[j],   r over 0 .. R + t,   j < vote_rows
//
//   q      query rows    [T, Hq, D]   as causal_attention's
//   kv     f32|f16|bf16  [Hkv][R + T] only K is read
//   votes  f32           [Hq, votes_stride]
//
// Limits      T >= 1; vote_rows <= R + T; rows past vote_rows take part in the softmax but get no vote.
// Numerics    f32, queries added in rising t; chunks as in attention_state.h.
// Result      independent of the threads and of the instruction set, bit for bit.
// Cost        two passes over K: 4*T*Hq*(R + T)*D flops.
// Errors      ERR_OUT_OF_MEMORY.
// Source      SnapKV paper, "Observation Window-based Algorithm"; H2O paper, accumulated attention.
// See         test/oracle/snapkv.ts
#pragma once

#include "common/context.h"
#include "ops/kv_layout.h"

namespace gorgon {

struct AttentionVotesArgs {
  const void* q;
  /** In elements: CPU floats, CUDA values of `dtype`. */
  int64_t q_stride;
  /** [Hkv], in the backend's memory. */
  const KvHead* heads;
  DType dtype;
  int64_t tokens;
  int64_t rows;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  /** Position of the first query. */
  int64_t position;
  int64_t window;
  int64_t vote_rows;
  float* votes;
  int64_t votes_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status attention_votes_cpu(const AttentionVotesArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status attention_votes_cuda(const AttentionVotesArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
