// rope_append: from the qkv product to attention: queries and keys normalised (where the model does) and turned to their positions, queries as
// attention takes them, keys and values behind the caches' committed rows.
//
//   qkv        f32 [T, qkv_stride]   Hq heads of q, Hkv of k, Hkv of v, D values each
//   q_norm, k_norm  f32 [D] or null  rms_norm of each head, before turning
//   cos, sin   f32 [positions, D/2]  tables of the angles' cosines and sines, times the model's scale
//   positions  i32 [T]
//   q          query rows [T, Hq, D] (common/operand.h), of `dtype`
//   caches     rows R..R+T-1 of each item's heads of `layer` are written, their positions too (kv_append.h)
//
//   turned[i]       = x[i] * cos[i] - x[i + D/2] * sin[i]          i < D/2
//   turned[i + D/2] = x[i + D/2] * cos[i] + x[i] * sin[i]
//
// Limits      T >= 1; D even, at most 256; the caches have room.
// Numerics    f32: rms_norm, then two products and one sum; rounded once, when stored.
// Row result  independent of T and of the other items.
// Errors      none.
// Source      "RoFormer" paper; half-split pairing as in Hugging Face Llama; heads normalised as in Qwen3.
// See         test/oracle/rope.ts, test/oracle/rms-norm.ts, test/oracle/kv.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"
#include "ops/pass_item.h"

namespace gorgon {

struct RopeAppendArgs {
  /** Normalised in place by the CPU. */
  float* qkv;
  int64_t qkv_stride;
  int64_t tokens;
  int64_t query_heads;
  int64_t kv_heads;
  int64_t head_dim;
  const float* q_norm;
  const float* k_norm;
  float eps;
  const float* cos;
  const float* sin;
  const int32_t* positions;
  DType dtype;
  void* q;
  /** In elements: CPU floats, CUDA values of `dtype`. */
  int64_t q_stride;
  /** f32 [T, Hkv * D + D]: turned keys, and angles. Only the CPU's. */
  float* workspace;
  /** [item_count], in the backend's memory. */
  const PassItem* items;
  int64_t item_count;
  int64_t layer;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status rope_append_cpu(const RopeAppendArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status rope_append_cuda(const RopeAppendArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
