// linear_gradient: what a loss's gradient by the results of linear says about its weight and its bias, added to what is known.
//
//   dw[n, k] += sum over m of dy[m, n] * x[m, k]
//   db[n]    += sum over m of dy[m, n]
//
//   dy  operand  [M, N]  gradient by linear's results, of `dtype`
//   x   operand  [M, K]  what linear multiplied, of `dtype`
//   dw  f32      [N, K]  rows next to each other
//   db  f32      [N]     or null
//
// The gradient by x is a product of its own: linear of dy and the transposed weight (pack_weight).
//
// Limits      M >= 1.
// Numerics    products as linear's, over depth m; f32 sums.
// Result      independent of the threads and of the instruction set, bit for bit; on CUDA the same from call to call.
// Cost        2*M*N*K flops; reads and writes N*K sums.
// Errors      ERR_OUT_OF_MEMORY.
// See         test/oracle/linear-gradient.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"

namespace gorgon {

struct LinearGradientArgs {
  const void* dy;
  int64_t dy_stride;
  const void* x;
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  int64_t depth;
  DType dtype;
  float* dw;
  float* db;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status linear_gradient_cpu(const LinearGradientArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status linear_gradient_cuda(const LinearGradientArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
