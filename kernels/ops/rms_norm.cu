// rms_norm on CUDA: a block owns two neighbouring rows, so that what it writes of a core are whole sectors of 32 bytes.
//
//   lane       | 0     1   | 2     3   | …          thread t: row t % 2, columns 8 (t / 2) … + 7, and the same 2048 further on
//              | row 0 | 1 | row 0 | 1 |
//                columns    columns
//                0 … 7      8 … 15
//
//   4096 wide: 512 threads, 16 values each, kept in registers from the sum of squares to the product; the weights are loaded before the rows are
//   there, which the kernel before may still be writing
//
// The order of a row's sum follows from its width alone: a thread's squares, the lanes of a warp, the warps. Of a single row half of the lanes
// idle. Rows too wide for a block's registers are read twice, the second time from cache.
#include <algorithm>

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/rms_norm.h"

namespace gorgon {

namespace {

constexpr int kMaxThreads = 512;
constexpr int kRows = 2;
constexpr int64_t kTurnColumns = kMaxThreads / kRows * kEight;

/** The sum over the threads of the same row; `partials` is shared, one per warp and row; all threads of the block call it, once. */
__device__ __forceinline__ float row_sum(float value, float (*partials)[kMaxThreads / kWarp]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, row = lane % kRows, place = lane / kRows;
#pragma unroll
  for (int step = kWarp / 2; step >= kRows; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  if (place == 0) partials[row][warp] = value;
  __syncthreads();
  static_assert(kMaxThreads / kWarp == kWarp / kRows, "a lane for each warp's partial sum");
  value = place < static_cast<int>(blockDim.x) / kWarp ? partials[row][place] : 0.0f;
#pragma unroll
  for (int step = kWarp / 2; step >= kRows; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

/**
 * `kTurns`: of a thread, eight columns each, all held in registers; 0: any number, read twice. `kAligned`: eight neighbours can be loaded and
 * stored at once, everywhere.
 */
template <class T, int kTurns, bool kAligned>
__global__ void __launch_bounds__(kMaxThreads) rms_norm_rows_kernel(RmsNormArgs args) {
  __shared__ float partials[kRows][kMaxThreads / kWarp];
  let_next_start();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x % kRows, width = args.width;
  const int64_t first = static_cast<int64_t>(threadIdx.x / kRows) * kEight;
  const bool exists = row < args.rows;
  const float* x = args.x + row * args.x_stride;
  const int turns = kTurns > 0 ? kTurns : static_cast<int>((width + kTurnColumns - 1) / kTurnColumns);
  constexpr int kHeld = kTurns > 0 ? kTurns : 1;
  float values[kHeld][kEight], weights[kHeld][kEight];
  const auto load = [&](const float* from, int64_t column, float (&to)[kEight]) {
    if (!kAligned) {
      load_some(from + column, exists ? width - column : 0, to);
    } else if (exists && column < width) {
      load_eight(from + column, to);
    } else {
#pragma unroll
      for (int i = 0; i < kEight; ++i) to[i] = 0.0f;
    }
  };
  if (kTurns > 0) {
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) load(args.weight, first + turn * kTurnColumns, weights[turn]);
  }
  wait_for_previous();

  if (kTurns > 0) {
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) load(x, first + turn * kTurnColumns, values[turn]);
  }
  float squares = 0.0f;
#pragma unroll
  for (int turn = 0; turn < turns; ++turn) {
    float(&held)[kEight] = values[kTurns > 0 ? turn : 0];
    if (kTurns == 0) load(x, first + turn * kTurnColumns, held);
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kEight; ++i) sum = fmaf(held[i], held[i], sum);
    squares += sum;
  }
  const float mean = row_sum(squares, partials) / static_cast<float>(static_cast<int>(width));
  const float scale = 1.0f / sqrtf(mean + args.eps);
  if (!exists) return;

#pragma unroll
  for (int turn = 0; turn < turns; ++turn) {
    const int64_t column = first + turn * kTurnColumns;
    if (column >= width) break;
    float(&held)[kEight] = values[kTurns > 0 ? turn : 0];
    float(&by)[kEight] = weights[kTurns > 0 ? turn : 0];
    if (kTurns == 0) {
      load(x, column, held);
      load(args.weight, column, by);
    }
#pragma unroll
    for (int i = 0; i < kEight; ++i) held[i] = held[i] * scale * by[i];
    if (args.operand) {
      T* to = static_cast<T*>(args.out) + core_element(row, column, width);
      if (kAligned) {
        store_eight(to, held);
      } else {
        store_some(to, width - column, held);
      }
    } else {
      float* to = static_cast<float*>(args.out) + row * args.out_stride + column;
#pragma unroll
      for (int i = 0; i < kEight; ++i) held[i] = to_float(from_float<T>(held[i]));
      if (kAligned) {
        store_eight(to, held);
      } else {
        store_some(to, width - column, held);
      }
    }
  }
}

template <class T>
auto kernel_for(int64_t turns, bool aligned) {
  if (!aligned) return rms_norm_rows_kernel<T, 0, false>;
  return turns == 1 ? rms_norm_rows_kernel<T, 1, true> : turns == 2 ? rms_norm_rows_kernel<T, 2, true> : rms_norm_rows_kernel<T, 0, true>;
}

}  // namespace

Status rms_norm_cuda(const RmsNormArgs& args, CudaContext& context) {
  const bool aligned_out = args.operand || (on_16_bytes(args.out) && args.out_stride % 4 == 0);
  const bool aligned = args.width % kEight == 0 && on_16_bytes(args.x) && args.x_stride % 4 == 0 && on_16_bytes(args.weight) && aligned_out;
  const int64_t turns = divide_up(args.width, kTurnColumns);
  const int64_t threads = turns > 1 ? kMaxThreads : round_up(divide_up(args.width, kEight) * kRows, kWarp);
  return with_dtype(args.dtype, [&](auto type) {
    return launch(context, "rms_norm", kernel_for<decltype(type)>(turns, aligned), dim3(static_cast<unsigned>(divide_up(args.rows, kRows))),
                  dim3(static_cast<unsigned>(threads)), 0, args);
  });
}

}  // namespace gorgon
