// sum_of_squares on CUDA: up to 1024 blocks, each the sum of its turns; then one block adds up those, in a tree whose shape never changes.
//
//   x   | 2048 | 2048 | …      a turn: 256 threads, 8 values each; block b has the turns b, b + blocks, …
//
// How many blocks there are follows from the count alone, and so does the order of the sums. Reading is all that takes time.
#include "ops/sum_of_squares.h"

#include <algorithm>

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kTurn = kThreads * kEight;
constexpr int64_t kMostBlocks = 1024;

/** Of all threads, in the first one; all of the block call it, once. */
__device__ __forceinline__ double block_total(double value) {
  __shared__ double partials[kWarps];
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  if (threadIdx.x % kWarp == 0) partials[threadIdx.x / kWarp] = value;
  __syncthreads();  // the warps' sums are there
  double total = 0.0;
#pragma unroll
  for (int warp = 0; warp < kWarps; ++warp) total += partials[warp];
  return total;
}

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) sum_turns_kernel(const float* x, int64_t count, double* totals) {
  let_next_start();
  wait_for_previous();
  double sums[kEight] = {};
  for (int64_t turn = blockIdx.x; turn * kTurn < count; turn += gridDim.x) {
    const int64_t first = turn * kTurn + threadIdx.x * kEight;
    float values[kEight];
    if (kAligned && first + kEight <= count) {
      load_eight(x + first, values);
    } else {
      load_some(x + first, count - first, values);
    }
#pragma unroll
    for (int i = 0; i < kEight; ++i) {
      const double value = values[i];
      sums[i] += value * value;
    }
  }
#pragma unroll
  for (int step = kEight / 2; step > 0; step /= 2) {
#pragma unroll
    for (int i = 0; i < step; ++i) sums[i] += sums[i + step];
  }
  const double total = block_total(sums[0]);
  if (threadIdx.x == 0) totals[blockIdx.x] = total;
}

/** One block. */
__global__ void __launch_bounds__(kThreads) sum_totals_kernel(const double* totals, int count, double* out) {
  let_next_start();
  wait_for_previous();
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += totals[i];
  const double total = block_total(sum);
  if (threadIdx.x == 0) *out = total;
}

}  // namespace

Status sum_of_squares_cuda(const SumOfSquaresArgs& args, CudaContext& context) {
  const int64_t blocks = std::min(kMostBlocks, divide_up(args.count, kTurn));
  double* totals = nullptr;
  GORGON_TRY(context.scratch(blocks, &totals));
  GORGON_TRY(launch(context, "sum_of_squares", on_16_bytes(args.x) ? sum_turns_kernel<true> : sum_turns_kernel<false>, dim3(static_cast<unsigned>(blocks)),
                    dim3(kThreads), 0, args.x, args.count, totals));
  return launch(context, "sum_of_squares", sum_totals_kernel, dim3(1), dim3(kThreads), 0, totals, static_cast<int>(blocks), args.out);
}

}  // namespace gorgon
