// sum_of_squares: of which a gradient's norm is the root.
//
//   out = sum over i of x[i]^2
//
//   x    f32  [count]
//   out  f64  [1]  in the backend's memory
//
// Limits      count >= 1.
// Numerics    f64 sums in an order that follows from count alone; NaN and infinities come through.
// Result      independent of the threads and of the instruction set, bit for bit; on CUDA the same from call to call.
// Errors      ERR_OUT_OF_MEMORY.
// See         test/kernels/sum-of-squares.test.ts
#pragma once

#include "common/context.h"

namespace gorgon {

struct SumOfSquaresArgs {
  const float* x;
  int64_t count;
  double* out;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status sum_of_squares_cpu(const SumOfSquaresArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status sum_of_squares_cuda(const SumOfSquaresArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
