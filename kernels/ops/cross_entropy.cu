// cross_entropy on CUDA: two launches, since a row's gradient needs all of the row.
//
//   row     | 8192 columns | 8192 columns | …    first: 32 columns a thread, in registers: the part's largest logit, the sum of exponentials
//                                                relative to it, and how many tokens come before the target
//   8 rows  | 2048 columns | 2048 columns | …    second: the rows' parts in their order; then gradients, eight neighbours of a row a thread, whose
//                                                neighbours have those of the next rows: what is written of cores are whole lines
//
// Comparing with the target is two instructions a logit where a thread's four lie on one side of it: with more, the first launch waits for its
// arithmetic and not for memory.
//
// Where parts are cut, and so the order of a row's sums, follows from nothing but the vocabulary. The first launch goes from the last row, which
// the product has written last, to the first row; the second one back: what the second-level cache holds is not read from memory again.
#include "ops/cross_entropy.h"

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
static_assert(kWarps == kCore, "a warp adds up the parts of one of a group's rows");

constexpr int kFour = 4;
/** Fours of a thread: loads under way at the same time. */
constexpr int kFours = 8;
constexpr int64_t kPartColumns = int64_t{kThreads} * kFours * kFour;

/** Columns of 8 rows that a block has at once, and how often. */
constexpr int64_t kTurnColumns = kThreads / kCore * kEight;
constexpr int kTurns = 8;
constexpr int64_t kShareColumns = kTurns * kTurnColumns;
/** Turns whose loads are under way at the same time. */
constexpr int kTogether = 4;

/** Of a row's part. */
struct RowPart {
  /** Of e^(x - largest); of e^x where `largest` is -infinity. */
  double sum;
  float largest;
  /** Tokens that rank before the target. */
  int32_t before;
};

__device__ __forceinline__ double warp_total(double value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

struct Rows {
  const float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t columns;
  const int32_t* targets;
};

template <bool kAligned>
__global__ void __launch_bounds__(kThreads) measure_parts_kernel(const Rows rows, int64_t parts, RowPart* out) {
  __shared__ float largests[kWarps];
  __shared__ double sums[kWarps];
  __shared__ int32_t befores[kWarps];
  let_next_start();
  wait_for_previous();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t index = static_cast<int64_t>(gridDim.x) - 1 - blockIdx.x, row = index / parts, begin = index % parts * kPartColumns;
  const int32_t target = rows.targets[row];
  if (target < 0) return;
  const float* __restrict__ x = rows.x + row * rows.x_stride;
  const float of_target = x[target];
  const auto column_of = [&](int i) { return begin + (static_cast<int64_t>(i) * kThreads + threadIdx.x) * kFour; };

  float values[kFours][kFour];
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
    const int64_t column = column_of(i);
    if (kAligned && column + kFour <= rows.columns) {
      const float4 four = *reinterpret_cast<const float4*>(x + column);
      values[i][0] = four.x, values[i][1] = four.y, values[i][2] = four.z, values[i][3] = four.w;
    } else {
#pragma unroll
      for (int j = 0; j < kFour; ++j) values[i][j] = column + j < rows.columns ? x[column + j] : -INFINITY;
    }
  }
  float largest = -INFINITY;
  int32_t before = 0;
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
#pragma unroll
    for (int j = 0; j < kFour; ++j) largest = fmaxf(largest, values[i][j]);
    // Of equal ones those before the target come first: of all four, but where the target is among them.
    const int64_t earlier = target - column_of(i);
    if (earlier >= kFour) {
#pragma unroll
      for (int j = 0; j < kFour; ++j) before += values[i][j] >= of_target;
    } else {
#pragma unroll
      for (int j = 0; j < kFour; ++j) before += values[i][j] > of_target || (j < earlier && values[i][j] == of_target);
    }
  }
  largest = warp_max(largest);
  if (lane == 0) largests[warp] = largest;
  __syncthreads();  // the warps' largest are there
#pragma unroll
  for (int other = 0; other < kWarps; ++other) largest = fmaxf(largest, largests[other]);

  const float reference = largest == -INFINITY ? 0.0f : largest;
  float four[kFour] = {};
#pragma unroll
  for (int i = 0; i < kFours; ++i) {
#pragma unroll
    for (int j = 0; j < kFour; ++j) four[j] += expf(values[i][j] - reference);
  }
  const double sum = warp_total((static_cast<double>(four[0]) + four[1]) + (static_cast<double>(four[2]) + four[3]));
  before = __reduce_add_sync(kAllLanes, before);
  if (lane == 0) sums[warp] = sum, befores[warp] = before;
  __syncthreads();  // and their sums
  if (threadIdx.x != 0) return;
  RowPart part{0.0, largest, 0};
#pragma unroll
  for (int other = 0; other < kWarps; ++other) part.sum += sums[other], part.before += befores[other];
  out[index] = part;
}

/** What a row's gradient needs of all of it. */
struct RowWhole {
  float largest;
  /** The scale over the sum of exponentials. */
  float factor;
  int32_t target;
  float of_target;
};

/** A row's parts as one, by a warp; every lane has the result. */
__device__ __forceinline__ RowPart whole_of(const RowPart* parts, int64_t count) {
  const int lane = threadIdx.x % kWarp;
  RowPart whole{0.0, -INFINITY, 0};
  for (int64_t i = lane; i < count; i += kWarp) whole.largest = fmaxf(whole.largest, parts[i].largest);
  whole.largest = warp_max(whole.largest);
  for (int64_t i = lane; i < count; i += kWarp) {
    whole.sum += parts[i].sum * static_cast<double>(expf(parts[i].largest - whole.largest));
    whole.before += parts[i].before;
  }
  whole.sum = warp_total(whole.sum);
  whole.before = __reduce_add_sync(kAllLanes, whole.before);
  return whole;
}

/** grid: [group of 8 rows][share of the columns]; one share that writes nothing where no gradient is wanted. */
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) write_rows_kernel(const Rows rows, const RowPart* all_parts, int64_t parts, int64_t shares, float scale, float* losses,
                                                             int32_t* ranks, T* gradient) {
  __shared__ RowWhole wholes[kCore];
  let_next_start();
  wait_for_previous();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t group = blockIdx.x / shares, share = blockIdx.x % shares, own = group * kCore + warp;
  if (own < rows.rows) {
    const int32_t target = rows.targets[own];
    float loss = 0.0f;
    int32_t rank = -1;
    RowWhole whole{0.0f, 0.0f, target, 0.0f};
    if (target >= 0) {
      const RowPart part = whole_of(all_parts + own * parts, parts);
      const float logit = rows.x[own * rows.x_stride + target];
      loss = static_cast<float>(log(part.sum) - (static_cast<double>(logit) - static_cast<double>(part.largest)));
      rank = part.before;
      whole.largest = part.largest;
      whole.factor = static_cast<float>(scale / part.sum);
      // The difference in f64: a target that is almost certain leaves little.
      whole.of_target = static_cast<float>((expf(logit - part.largest) - part.sum) * (scale / part.sum));
    }
    if (lane == 0) {
      wholes[warp] = whole;
      if (share == 0) losses[own] = loss, ranks[own] = rank;
    }
  }
  if (gradient == nullptr) return;
  __syncthreads();  // the rows' wholes are there

  const int64_t row = group * kCore + threadIdx.x % kCore;
  if (row >= rows.rows) return;
  const RowWhole whole = wholes[threadIdx.x % kCore];
  const float* __restrict__ x = rows.x + row * rows.x_stride;
  const int64_t first = share * kShareColumns + threadIdx.x / kCore * kEight;
  for (int turn = 0; turn < kTurns; turn += kTogether) {
    float values[kTogether][kEight];
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int64_t column = first + (turn + i) * kTurnColumns;
      if (kAligned && column + kEight <= rows.columns) {
        load_eight(x + column, values[i]);
      } else {
        load_some(x + column, rows.columns - column, values[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int64_t column = first + (turn + i) * kTurnColumns;
      if (column >= rows.columns) continue;
#pragma unroll
      for (int j = 0; j < kEight; ++j) {
        const float value = expf(values[i][j] - whole.largest) * whole.factor;
        values[i][j] = whole.target < 0 ? 0.0f : column + j == whole.target ? whole.of_target : value;
      }
      T* to = gradient + core_element(row, column, rows.columns);
      if (column + kEight <= rows.columns) {
        store_eight(to, values[i]);
      } else {
        store_some(to, rows.columns - column, values[i]);
      }
    }
  }
}

}  // namespace

Status cross_entropy_cuda(const CrossEntropyArgs& args, CudaContext& context) {
  const int64_t parts = divide_up(args.columns, kPartColumns);
  const int64_t shares = args.gradient == nullptr ? 1 : divide_up(args.columns, kShareColumns);
  const bool aligned = on_16_bytes(args.x) && args.x_stride % kFour == 0;
  const Rows rows{args.x, args.x_stride, args.rows, args.columns, args.targets};
  RowPart* all_parts = nullptr;
  GORGON_TRY(context.scratch(args.rows * parts, &all_parts));
  GORGON_TRY(launch(context, "cross_entropy", aligned ? measure_parts_kernel<true> : measure_parts_kernel<false>, dim3(static_cast<unsigned>(args.rows * parts)),
                    dim3(kThreads), 0, rows, parts, all_parts));
  const dim3 grid(static_cast<unsigned>(divide_up(args.rows, kCore) * shares));
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    return launch(context, "cross_entropy", aligned ? write_rows_kernel<T, true> : write_rows_kernel<T, false>, grid, dim3(kThreads), 0, rows, all_parts, parts,
                  shares, args.scale, args.losses, args.ranks, static_cast<T*>(args.gradient));
  });
}

}  // namespace gorgon
