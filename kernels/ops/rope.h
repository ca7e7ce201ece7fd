// rope: rotates the heads of queries or keys to their positions, pairs (i, i + D/2).
//
//   out[t,h,i]       = x[t,h,i] * cos[t,i] - x[t,h,i+D/2] * sin[t,i]        i < D/2
//   out[t,h,i+D/2]   = x[t,h,i+D/2] * cos[t,i] + x[t,h,i] * sin[t,i]
//
//   x         f32 [T, x_stride]              head h at h * D
//   cos, sin  f32 [T, D/2]                   of position * inverse frequency, times the model's scale
//   out       f32 [T, out_stride]            head h at h * out_head_stride; only D values of a head are written; does not alias x;
//                                            bf16 values if `as_bf16`
//
// Limits      T >= 1; D even.
// Numerics    f32, two products and one sum, as the reference implementations do.
// Row result  independent of T.
// Errors      none.
// Source      "RoFormer" paper; half-split pairing as in Hugging Face Llama.
// See         test/oracle/rope.ts
#pragma once

#include "common/context.h"

namespace gorgon {

struct RopeArgs {
  const float* x;
  int64_t x_stride;
  int64_t tokens;
  int64_t heads;
  int64_t head_dim;
  const float* cos;
  const float* sin;
  bool as_bf16;
  float* out;
  int64_t out_stride;
  int64_t out_head_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status rope_cpu(const RopeArgs& args, CpuContext& context);
}
#endif

}  // namespace gorgon
