// stream_read: the sum of a buffer that is read once; the least that an operation streaming its weights can do.
//
//   sums[t] = sum over i of thread t's share of data[i]
//
//   data     f32  [lines, 16]  64-byte aligned
//   sums     f64  [threads]    one share each; a share that is empty gives 0
//
// Limits      lines >= 0; streams is 1, 2 or 4: places of its share that a thread reads from in turn; prefetch_lines >= 0: how far ahead it
//             asks for each of them, 0 leaves that to the processor.
// Numerics    f32 accumulation, lanes and chains in no promised order: exact only where every partial sum is.
// Row result  does not apply: a yardstick for bench/, not a step of the model.
// Cost        reads lines * 64 bytes once per call; one addition for four bytes.
// See         bench/kernels/yardsticks.ts, test/kernels/yardsticks.test.ts
#pragma once

#include "common/context.h"

namespace gorgon {

struct StreamReadArgs {
  const float* data;
  int64_t lines;
  int64_t streams;
  int64_t prefetch_lines;
  double* sums;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status stream_read_cpu(const StreamReadArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status stream_read_cuda(const StreamReadArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
