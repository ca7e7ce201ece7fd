// residual_silu_gradient: a loss's gradient by the product of a Medusa head's residual block, from its gradient by the block's result.
//
//   da[m, c] = dz[m, c] * silu'(a[m, c]),   silu'(a) = s * (1 + a * (1 - s)),   s = 1 / (1 + e^-a)
//
//   a    f32      [M, a_stride]   the block's product
//   dz   f32      [M, dz_stride]  gradient by z + silu(a); what the block was given has it as it is, besides
//   da   operand  [M, C]          as the backend's products take it, of `dtype`; does not alias
//
// Limits      M >= 1, C >= 1.
// Numerics    f32; exp from simd.h on the CPU.
// Row result  independent of M, of the threads and of the instruction set, bit for bit.
// Errors      none.
// See         test/oracle/residual-silu.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"

namespace gorgon {

struct ResidualSiluGradientArgs {
  const float* a;
  int64_t a_stride;
  const float* dz;
  int64_t dz_stride;
  int64_t rows;
  int64_t width;
  DType dtype;
  void* da;
  int64_t da_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status residual_silu_gradient_cpu(const ResidualSiluGradientArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status residual_silu_gradient_cuda(const ResidualSiluGradientArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
