// gated_linear: the first half of the feed-forward block: both products and the gated activation between them.
//
//   g = x . gate^T + gate_bias,  u = x . up^T + up_bias;   out = g / (1 + e^-g) * u
//
//   x     operand            [M, K]   as the backend's products take it (common/operand.h)
//   w     f32|f16|bf16|int8  [2F, K]  packed: CPU gate's F columns, then up's; CUDA as gated_row of common/cores.h interleaves them, F rounded
//                                     up to 8, so that one thread has both
//   bias  f32 [2F] or null   gate's F, then up's
//   out   operand            [M, F]   of `dtype`
//
// Limits      M >= 1.
// Numerics    as linear, then as silu_mul.
// Row result  as linear's.
// Cost        reads 2*F*K weights once per call.
// Errors      ERR_OUT_OF_MEMORY.
// Source      "GLU Variants Improve Transformer" paper, SwiGLU.
// See         test/oracle/linear.ts, test/oracle/silu-mul.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"
#include "common/packed.h"

namespace gorgon {

struct GatedLinearArgs {
  const void* x;
  int64_t x_stride;
  int64_t rows;
  /** `columns` is 2F. */
  PackedMatrix w;
  const float* bias;
  DType dtype;
  /** f32 [M, 2F]: both products, where they are not fused with what follows. */
  float* workspace;
  void* out;
  int64_t out_stride;
  /** As linear's. */
  bool prompt;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status gated_linear_cpu(const GatedLinearArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status gated_linear_cuda(const GatedLinearArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
