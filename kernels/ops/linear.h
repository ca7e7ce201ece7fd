// linear: rows times the transpose of a packed weight.
//
//   out[m, n] = (add ? out[m, n] : 0) + bias[n] + scale[n] * sum over k of x[m, k] * w[n, k]          scale: of int8, else 1
//
//   x     operand        [M, K]  as the backend's products take it (common/operand.h)
//   w     f32|f16|bf16|int8 [N, K]  packed (CPU: common/packed.h; CUDA: common/cores.h)
//   bias  f32            [N]     or null
//   out   f32            [M, N]  out_stride floats from row to row; does not alias x
//
// Limits      M >= 1.
// Numerics    f32 accumulation in the order of common/packed.h; then times the scale of an
//             int8 column; then bias; then out (the residual) is added last.
// Row result  independent of M, of the threads and of the instruction set, bit for bit; on CUDA of M among the calls that are not
//             `prompt`, and among those of more than 64 rows that are; fewer rows of a prompt go the way of a step's.
// Cost        reads N*K weights once per call; 2*M*N*K flops.
// Errors      ERR_OUT_OF_MEMORY.
// Source      tile order: AMX TDPBF16PS as two chains of fused multiply-adds (Intel SDM, "TDPBF16PS").
// See         test/oracle/linear.ts
#pragma once

#include "common/context.h"
#include "common/operand.h"
#include "common/packed.h"

namespace gorgon {

struct LinearArgs {
  const void* x;
  int64_t x_stride;
  int64_t rows;
  PackedMatrix w;
  const float* bias;
  float* out;
  int64_t out_stride;
  bool add;
  /** Rows of a prompt, that no decoding pass has to equal in its last bits: a backend may take another way. Prompts are cut the same for all. */
  bool prompt;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status linear_cpu(const LinearArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status linear_cuda(const LinearArgs& args, CudaContext& context);
#endif

/**
 * Packs rows [first, last) of a row-major [columns, depth] weight into the tiles of a packed one, row n as column `offset` + n: several
 * weights of one input become one product. `source` may be unaligned, and is not int8; to int8 it is rounded as common/packed.h says.
 */
void pack_columns(const void* source, DType from, std::byte* tiles, DType to, int64_t depth, int64_t offset, int64_t first, int64_t last);

}  // namespace gorgon
