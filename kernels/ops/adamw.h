// adamw: one step of Adam with decoupled weight decay.
//
//   g' = gradient_scale * g
//   m  = beta1 * m + (1 - beta1) * g'
//   v  = beta2 * v + (1 - beta2) * g' * g'
//   w  = w - rate * (m / correction1 / (sqrt(v / correction2) + epsilon) + decay * w)
//   g  = 0
//
//   w, m, v, g  f32 [count], in place; they do not alias
//
// The corrections are 1 - beta^t of step t, from 1 on, which the caller computes in double.
//
// Limits      count >= 1.
// Numerics    f32, one rounded operation after the other, square root and divisions correctly rounded.
// Result      element by element: independent of the threads and of the instruction set, bit for bit.
// Cost        reads and writes 4 * count values.
// Errors      none.
// Source      "Decoupled Weight Decay Regularization" paper, AdamW.
// See         test/oracle/adamw.ts
#pragma once

#include "common/context.h"

namespace gorgon {

struct AdamwArgs {
  float* weights;
  float* mean;
  float* variance;
  float* gradient;
  int64_t count;
  float gradient_scale;
  float rate;
  float beta1;
  float beta2;
  float epsilon;
  float decay;
  float correction1;
  float correction2;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status adamw_cpu(const AdamwArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status adamw_cuda(const AdamwArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
