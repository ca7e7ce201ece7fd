// rms_norm: root-mean-square normalisation of rows.
//
//   out[m, i] = x[m, i] / sqrt(mean over i of x[m, i]^2 + eps) * weight[i]
//
//   x       f32 [M, x_stride]
//   weight  f32 [C]
//   out     f32 [M, out_stride]  rounded to `dtype`; only C values of a row are written; may be x
//           or, if `operand`, rows as a product takes them (common/operand.h), which are not x
//
// Limits      M >= 1, C >= 1.
// Numerics    f32. CPU: 16 partial sums of squares per row, added as a tree; CUDA: a thread's, then lanes', then warps', in an order that
//             follows from C.
// Row result  independent of M, bit for bit; on the CPU of the threads and of the instruction set, too.
// Cost        reads and writes M*C values.
// Errors      none.
// Source      "Root Mean Square Layer Normalization" paper.
// See         test/oracle/rms-norm.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"

namespace gorgon {

struct RmsNormArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t width;
  const float* weight;
  float eps;
  DType dtype;
  bool operand;
  void* out;
  int64_t out_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status rms_norm_cpu(const RmsNormArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status rms_norm_cuda(const RmsNormArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
