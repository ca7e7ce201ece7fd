// cross_entropy: how surprising each row's target token is, where it ranks among all tokens, and the loss's gradient by the logits.
//
//   loss[m] = log(sum over j of e^x[m, j]) - x[m, t[m]]
//   rank[m] = number of tokens j with x[m, j] > x[m, t[m]], or equal and j < t[m]: 0 is the likeliest
//   g[m, j] = scale * (e^x[m, j] / (sum over i of e^x[m, i]) - (j == t[m]))
//
//   x     f32      [M, x_stride]  logits
//   t     i32      [M]            below zero: no target, loss 0, rank -1, gradient zeros
//   loss  f32      [M]            nats
//   rank  i32      [M]
//   g     operand  [M, V]         as the backend's products take it, of `dtype`; null: not wanted. Does not alias x
//
// Limits      M >= 1, V >= 1; t < V.
// Numerics    f32 exponentials, relative to the row's largest logit. A row with a NaN or +infinity, or of -infinity alone, has loss and gradients
//             NaN and any rank.
// Row result  independent of M, of the threads and of the instruction set, bit for bit; on CUDA of M.
// Cost        reads M*V logits twice, writes M*V gradients.
// Errors      none.
// See         test/oracle/cross-entropy.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"

namespace gorgon {

struct CrossEntropyArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  const int32_t* targets;
  float scale;
  float* losses;
  int32_t* ranks;
  DType dtype;
  void* gradient;
  int64_t gradient_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status cross_entropy_cpu(const CrossEntropyArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status cross_entropy_cuda(const CrossEntropyArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
