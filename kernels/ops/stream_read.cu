// stream_read on CUDA: eight blocks a multiprocessor share the buffer, a thread has eight loads of 16 bytes on the way; a last block adds their sums.
//
// `streams` and `prefetch_lines` are the CPU's ways to keep loads on the way, and have no meaning here. There is one share, of one "thread".
#include "common/cuda_context.h"
#include "common/device.cuh"
#include "ops/stream_read.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerMultiprocessor = 8;
constexpr int kLoads = 8;

__global__ void __launch_bounds__(kThreads) stream_read_blocks_kernel(const float4* data, int64_t count, float* block_sums) {
  __shared__ float partials[kWarp];
  let_next_start();
  wait_for_previous();
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kThreads, thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  float sum = 0.0f;
  int64_t at = thread;
  for (; at + (kLoads - 1) * threads < count; at += kLoads * threads) {
    float4 loaded[kLoads];
#pragma unroll
    for (int i = 0; i < kLoads; ++i) loaded[i] = __ldcs(data + at + i * threads);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) sum += (loaded[i].x + loaded[i].y) + (loaded[i].z + loaded[i].w);
  }
  for (; at < count; at += threads) {
    const float4 loaded = __ldcs(data + at);
    sum += (loaded.x + loaded.y) + (loaded.z + loaded.w);
  }
  sum = block_sum(sum, partials);
  if (threadIdx.x == 0) block_sums[blockIdx.x] = sum;
}

/** One block. */
__global__ void __launch_bounds__(kThreads) stream_read_finish_kernel(const float* block_sums, int count, double* sum) {
  __shared__ double sums[kThreads];
  let_next_start();
  wait_for_previous();
  double own = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) own += block_sums[i];
  sums[threadIdx.x] = own;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0;
  for (int i = 0; i < kThreads; ++i) total += sums[i];
  *sum = total;
}

}  // namespace

Status stream_read_cuda(const StreamReadArgs& args, CudaContext& context) {
  const int blocks = context.multiprocessors * kBlocksPerMultiprocessor;
  float* block_sums = nullptr;
  GORGON_TRY(context.scratch(blocks, &block_sums));
  constexpr int64_t kLineLoads = 4;  // a line is 64 bytes
  GORGON_TRY(launch(context, "stream_read", stream_read_blocks_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0,
                    reinterpret_cast<const float4*>(args.data), args.lines * kLineLoads, block_sums));
  return launch(context, "stream_read", stream_read_finish_kernel, dim3(1), dim3(kThreads), 0, block_sums, blocks, args.sums);
}

}  // namespace gorgon
