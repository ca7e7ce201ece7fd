// embed: token ids to rows of the embedding table.
//
//   out[t, i] = table[ids[t], i]
//
//   ids    i32            [T]
//   table  f32|f16|bf16   [V, C]  row-major; CPU: of any alignment, it may be a mapped file;
//                          CUDA: on the device, aligned to its values
//   out    f32            [T, out_stride]
//
// Limits      T >= 1; ids in [0, V), checked by the caller.
// Row result  independent of T.
// Errors      none.
// See         test/oracle/embed.ts
#pragma once

#include "common/context.h"
#include "common/dtype.h"

namespace gorgon {

struct EmbedArgs {
  const int32_t* ids;
  int64_t tokens;
  const void* table;
  DType dtype;
  int64_t width;
  float* out;
  int64_t out_stride;
};

#ifdef GORGON_ISA
namespace GORGON_ISA {
Status embed_cpu(const EmbedArgs& args, CpuContext& context);
}
#endif

#ifdef GORGON_CUDA
Status embed_cuda(const EmbedArgs& args, CudaContext& context);
#endif

}  // namespace gorgon
