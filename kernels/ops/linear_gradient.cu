// linear_gradient on CUDA: both matrices are turned over in scratch memory, so that their rows are depth, and multiplied as a prompt's rows are.
//
//   dy  [M, N]  -> rows of an operand [N, M]    \  dw += their product, of depth M
//   x   [M, K]  -> a weight           [K, M]    /
//
// A core of the one is a core of the other, turned over: a warp takes 8 neighbouring cores, whose lines it reads whole and writes whole. Rows past M,
// which may hold anything, become zeros of depth. That costs 4 bytes a value beside 2 * N or 2 * K flops.
//
//   db  a block per 8 columns, which are one core wide: thread t adds up the rows t, t + 256, …; then threads as a tree
#include "ops/linear_gradient.h"

#include <type_traits>

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/linear_cuda.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
/** Cores of a block's side. */
constexpr int kSide = static_cast<int>(kBlock / kCore);

/** Of an 8x8 matrix of 2-byte values, of which a lane holds two neighbours of a row: those it holds of its transpose. */
__device__ __forceinline__ uint32_t turned_over(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

/** Block `blockIdx` (x: of columns, y: of rows) of [rows, columns] becomes that of its transpose; warp w has the blocks' core rows w. */
template <class T>
__global__ void __launch_bounds__(kThreads) turn_over_kernel(const T* __restrict__ from, int64_t rows, int64_t columns, T* __restrict__ to) {
  let_next_start();
  wait_for_previous();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kBlock + warp * kCore + lane / 4;
  from += (blockIdx.y * depth_blocks(columns) + blockIdx.x) * kBlockElements + warp * kSide * kCoreElements + lane * 2;
  to += (blockIdx.x * depth_blocks(rows) + blockIdx.y) * kBlockElements + warp * kCoreElements + lane * 2;
  if constexpr (sizeof(T) == 2) {
    uint32_t pairs[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) pairs[i] = row < rows ? *reinterpret_cast<const uint32_t*>(from + i * kCoreElements) : 0;
#pragma unroll
    for (int i = 0; i < kSide; ++i) *reinterpret_cast<uint32_t*>(to + i * kSide * kCoreElements) = turned_over(pairs[i]);
  } else {
    float2 pairs[kSide];
#pragma unroll
    for (int i = 0; i < kSide; ++i) pairs[i] = row < rows ? *reinterpret_cast<const float2*>(from + i * kCoreElements) : make_float2(0.0f, 0.0f);
    // Lane l has row l / 4 at columns 2 (l % 4) and 1 more; then column l / 4 at those rows.
    const int first = lane % 4 * 8 + lane / 8, second = first + 4;
#pragma unroll
    for (int i = 0; i < kSide; ++i) {
      const float first_even = __shfl_sync(kAllLanes, pairs[i].x, first), first_odd = __shfl_sync(kAllLanes, pairs[i].y, first);
      const float second_even = __shfl_sync(kAllLanes, pairs[i].x, second), second_odd = __shfl_sync(kAllLanes, pairs[i].y, second);
      const bool odd = lane / 4 % 2 == 1;
      *reinterpret_cast<float2*>(to + i * kSide * kCoreElements) = odd ? make_float2(first_odd, second_odd) : make_float2(first_even, second_even);
    }
  }
}

/** Eight neighbours of a core's row. */
template <class T>
__device__ __forceinline__ void load_core_row(const T* from, float (&values)[kEight]) {
  if constexpr (std::is_same_v<T, float>) {
    load_eight(from, values);
  } else {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
    const T* elements = reinterpret_cast<const T*>(&words);
#pragma unroll
    for (int i = 0; i < kEight; ++i) values[i] = to_float(elements[i]);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) add_columns_kernel(const T* dy, int64_t rows, int64_t columns, float* db) {
  __shared__ float partials[kWarps][kCore];
  let_next_start();
  wait_for_previous();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kCore;
  float sums[kEight] = {};
  for (int64_t row = threadIdx.x; row < rows; row += kThreads) {
    float values[kEight];
    load_core_row(dy + core_element(row, column, columns), values);
#pragma unroll
    for (int i = 0; i < kEight; ++i) sums[i] += values[i];
  }
#pragma unroll
  for (int i = 0; i < kEight; ++i) {
    sums[i] = warp_sum(sums[i]);
    if (lane == 0) partials[warp][i] = sums[i];
  }
  __syncthreads();  // the warps' sums are there
  const int own = threadIdx.x;
  if (own >= kCore || column + own >= columns) return;
  float total = 0.0f;
#pragma unroll
  for (int other = 0; other < kWarps; ++other) total += partials[other][own];
  db[column + own] += total;
}

template <class T>
Status turn_over(const void* from, int64_t rows, int64_t columns, T* to, CudaContext& context) {
  const dim3 grid(static_cast<unsigned>(depth_blocks(columns)), static_cast<unsigned>(depth_blocks(rows)));
  return launch(context, "linear_gradient", turn_over_kernel<T>, grid, dim3(kThreads), 0, static_cast<const T*>(from), rows, columns, to);
}

template <class T>
Status run(const LinearGradientArgs& args, CudaContext& context) {
  const int64_t operand = core_matrix_elements(args.columns, args.rows), weight = core_matrix_elements(args.depth, args.rows);
  T* turned = nullptr;
  GORGON_TRY(context.scratch(operand + weight, &turned));
  GORGON_TRY(turn_over(args.dy, args.rows, args.columns, turned, context));
  GORGON_TRY(turn_over(args.x, args.rows, args.depth, turned + operand, context));
  if (args.db != nullptr) {
    GORGON_TRY(launch(context, "linear_gradient", add_columns_kernel<T>, dim3(static_cast<unsigned>(divide_up(args.columns, kCore))), dim3(kThreads), 0,
                      static_cast<const T*>(args.dy), args.rows, args.columns, args.db));
  }
  Product product{};
  product.x = turned;
  product.rows = args.columns;
  product.w = turned + operand;
  product.columns = args.depth;
  product.depth = args.rows;
  product.out = args.dw;
  product.out_stride = args.depth;
  return multiply_many_rows_cuda(product, Ending::kAdd, args.dtype, context);
}

}  // namespace

Status linear_gradient_cuda(const LinearGradientArgs& args, CudaContext& context) {
  return with_dtype(args.dtype, [&](auto type) { return run<decltype(type)>(args, context); });
}

}  // namespace gorgon
