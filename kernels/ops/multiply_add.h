// multiply_add: chains of multiply-adds that never leave the registers; the most that an operation can compute.
//
//   each accumulator += x * 1, `steps` times;   sums[t] = sum of the accumulators of share t
//
//   sums   f64  [threads]  one share each, so that sums[t] = x * (multiply-adds of a share) while that is exact in f32
//   flops  i64  [1]        floating-point operations of the call, over all shares: two for a multiply-add
//
// Limits      steps >= 1; x is a bf16 value; AMX multiplies tiles of bf16, the other instruction sets f32 lanes.
// Row result  does not apply: a yardstick for bench/, not a step of the model.
// Cost        reads nothing.
// See         bench/kernels/yardsticks.ts, test/kernels/yardsticks.test.ts
#pragma once

#include "common/context.h"

namespace gorgon {

struct MultiplyAddArgs {
  int64_t steps;
  float x;
  double* sums;
  int64_t* flops;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status multiply_add_cpu(const MultiplyAddArgs& args, CpuContext& context);
}
#endif

}  // namespace gorgon
