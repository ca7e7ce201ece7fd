// silu_mul: the gated activation of the feed-forward block.
//
//   out[m, i] = x[m, i] / (1 + e^-x[m, i]) * x[m, F + i]
//
//   x    f32 [M, x_stride]    the gate's F values, then the up projection's F values
//   out  operand [M, F]       as the backend's products take it, of `dtype`; does not alias x
//
// Limits      M >= 1, F >= 1.
// Numerics    f32; exp from simd.h.
// Row result  independent of M, of the threads and of the instruction set, bit for bit.
// Errors      none.
// Source      "GLU Variants Improve Transformer" paper, SwiGLU.
// See         test/oracle/silu-mul.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"

namespace gorgon {

struct SiluMulArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t width;
  DType dtype;
  void* out;
  int64_t out_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status silu_mul_cpu(const SiluMulArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status silu_mul_cuda(const SiluMulArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
