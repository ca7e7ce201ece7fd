// medusa_heads: residual blocks and projection of each Medusa head, on the hidden rows of the last accepted nodes only.
//
//   z_0 = x;   z_{r+1} = z_r + silu(W_r z_r + b_r);   logits = P z_R
//
//   x       f32           [S, x_stride]   after the final norm, rounded to `dtype`; x_stride at least C rounded up to 32, zeros past C
//   W, P    f32|f16|bf16|int8  [C, C], [V', C] packed; every head may project through one shared P: then it is read once for all heads
//   b       f32           [C] or null
//   logits  f32           [M * S, logits_stride]  head-major: row m * S + s
//
// Limits      S >= 1; M >= 1; R >= 0.
// Numerics    f32 residual; inputs of bf16 and int8 products rounded to bf16.
// Row result  independent of S, of the threads and of the instruction set, bit for bit.
// Cost        reads M*R*C*C + V'*C weights (shared) or M*(R*C*C + V'*C) (private).
// Errors      ERR_OUT_OF_MEMORY.
// Source      Medusa paper, "Medusa Heads".
// See         test/oracle/medusa-heads.ts
#pragma once

#include "common/context.h"
#include "common/packed.h"

namespace gorgon {

struct MedusaHeadWeights {
  /** [R]. */
  const PackedMatrix* blocks;
  /** [R], each [C] or null. */
  const float* const* biases;
  PackedMatrix projection;
};

struct MedusaHeadsArgs {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t width;
  const MedusaHeadWeights* heads;
  int64_t head_count;
  int64_t block_count;
  bool shared_projection;
  /** Of x and of the products' operands: the model's, or bf16 with int8 weights. */
  DType dtype;
  /** f32 [2 * M * S + S, x_stride], zeros past C. Only the CPU's. */
  float* workspace;
  float* logits;
  int64_t logits_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status medusa_heads_cpu(const MedusaHeadsArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status medusa_heads_cuda(const MedusaHeadsArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
