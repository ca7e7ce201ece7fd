// pack_weight: plain rows to a packed weight, or to that of their transpose: what training's products take of weights that change.
//
//   w[n, k]  = source[n, k]                 plain
//   w[k, n]  = source[n, k]                 transposed
//
//   source  f32           [N, K]  rows next to each other, in the backend's memory
//   w       f32|f16|bf16  packed (CPU: common/packed.h; CUDA: common/cores.h), [N, K], or [K, N] if transposed; all of it is written
//
// Limits      N >= 1, K >= 1; no int8.
// Numerics    rounded to nearest, ties to even.
// Errors      none.
// See         test/kernels/pack-weight.test.ts
#pragma once

#include "common/context.h"
#include "common/dtype.h"

namespace gorgon {

struct PackWeightArgs {
  const float* source;
  int64_t rows;
  int64_t depth;
  bool transposed;
  DType dtype;
  void* tiles;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status pack_weight_cpu(const PackWeightArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status pack_weight_cuda(const PackWeightArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
