// residual_silu: the end of a Medusa head's residual block, while it is trained: the activation, added to what the block was given.
//
//   z[m, c] += silu(a[m, c]),   silu(a) = a / (1 + e^-a)
//
//   a    f32      [M, a_stride]  the block's product; a stride of 0 is one for all rows
//   z    f32      [M, z_stride]  in place
//   out  operand  [M, C]         z, as the next product takes it, of `dtype`; does not alias
//
// Limits      M >= 1, C >= 1.
// Numerics    f32; exp from simd.h on the CPU. The same z as medusa_heads has, bit for bit.
// Row result  independent of M, of the threads and of the instruction set, bit for bit.
// Errors      none.
// Source      Medusa paper, "Medusa Heads".
// See         test/oracle/residual-silu.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"

namespace gorgon {

struct ResidualSiluArgs {
  const float* a;
  int64_t a_stride;
  int64_t rows;
  int64_t width;
  float* z;
  int64_t z_stride;
  DType dtype;
  void* out;
  int64_t out_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status residual_silu_cpu(const ResidualSiluArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status residual_silu_cuda(const ResidualSiluArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
