// embed on CUDA: a block owns up to 1024 neighbouring columns of a token, a thread four of them: 8 or 16 bytes in, 16 out.
//
//   grid  [token][part of the width]
//
// A step's few rows cost two loads that wait for each other, the id's and the row's; a prompt's cost their bytes.
#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/embed.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kEach = 4;

__device__ __forceinline__ float4 widen_four(const float* from) { return *reinterpret_cast<const float4*>(from); }
template <class T>
__device__ __forceinline__ float4 widen_four(const T* from) {
  struct alignas(8) Four {
    T values[4];
  };
  const Four four = *reinterpret_cast<const Four*>(from);
  return make_float4(to_float(four.values[0]), to_float(four.values[1]), to_float(four.values[2]), to_float(four.values[3]));
}

/** `aligned`: four neighbours can be loaded and stored at once, everywhere. */
template <class T>
__global__ void __launch_bounds__(kThreads) embed_gather_kernel(const int32_t* ids, const T* table, int64_t width, float* out, int64_t out_stride, bool aligned) {
  let_next_start();
  wait_for_previous();
  const int64_t token = blockIdx.x;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * kEach;
  const T* from = table + ids[token] * width + column;
  float* to = out + token * out_stride + column;
  if (aligned && column < width) {
    *reinterpret_cast<float4*>(to) = widen_four(from);
    return;
  }
  for (int i = 0; i < kEach && column + i < width; ++i) to[i] = to_float(from[i]);
}

}  // namespace

Status embed_cuda(const EmbedArgs& args, CudaContext& context) {
  const bool aligned = on_16_bytes(args.table) && on_16_bytes(args.out) && args.width % kEach == 0 && args.out_stride % kEach == 0;
  const dim3 grid(static_cast<unsigned>(args.tokens), static_cast<unsigned>(divide_up(args.width, kThreads * kEach)));
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    return launch(context, "embed", embed_gather_kernel<T>, grid, dim3(kThreads), 0, args.ids, static_cast<const T*>(args.table), args.width, args.out,
                  args.out_stride, aligned);
  });
}

}  // namespace gorgon
