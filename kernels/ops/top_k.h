// top_k: the k best entries of each row.
//
//   scores  f32 [M, stride]  columns of a row
//   ids     i32 [M, k]       best first; ties to the lower column; -0 ties with 0; NaN ranks below everything, -infinity included
//
// Limits      1 <= k <= 64; k <= columns < 2^31.
// Row result  independent of M, of the threads and of the instruction set.
// Cost        reads M*columns scores once.
// Errors      ERR_SHAPE, ERR_OUT_OF_MEMORY.
// See         test/oracle/top-k.ts
#pragma once

#include "common/context.h"

namespace gorgon {

constexpr int kMaxTopK = 64;

struct TopKArgs {
  const float* scores;
  int64_t stride;
  int64_t rows;
  int64_t columns;
  int32_t k;
  int32_t* ids;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status top_k_cpu(const TopKArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status top_k_cuda(const TopKArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
