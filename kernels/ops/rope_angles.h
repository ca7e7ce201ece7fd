// rope_angles: the tables of cosines and sines that rope_append reads.
//
//   cos[p, i] = cos(p * inverse_frequency[i]) * scale, sin likewise        first <= p < first + count
//
//   inverse_frequencies  f32 [D/2]
//   cos, sin             f32 [positions, D/2]
//
// Numerics    the angle is an f32 product, as in the implementations the checkpoints were trained with; its sine and cosine are of f64 and
//             rounded to f32, then times scale.
// Cost        a sine takes longer than most of what a row goes through, and every layer of a prompt would ask for it again: hence tables.
// Errors      none.
// Source      "RoFormer" paper.
// See         test/oracle/rope.ts
#pragma once

#include "common/context.h"

namespace gorgon {

struct RopeAnglesArgs {
  const float* inverse_frequencies;
  int64_t half;
  float scale;
  int64_t first;
  int64_t count;
  float* cos;
  float* sin;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status rope_angles_cpu(const RopeAnglesArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status rope_angles_cuda(const RopeAnglesArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
