// unpack_weight: a packed weight to plain rows: the inverse of pack_weight, up to rounding.
//
//   out[n, k] = w[n, k], of int8 times the column's scale
//
//   w    f32|f16|bf16|int8  packed (CPU: common/packed.h; CUDA: common/cores.h), not gated
//   out  f32                [N, K]  rows next to each other, in the backend's memory
//
// Numerics    exact, but for int8's one product.
// Errors      none.
// See         test/kernels/pack-weight.test.ts
#pragma once

#include "common/context.h"
#include "common/packed.h"

namespace gorgon {

struct UnpackWeightArgs {
  PackedMatrix w;
  float* out;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status unpack_weight_cpu(const UnpackWeightArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status unpack_weight_cuda(const UnpackWeightArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
