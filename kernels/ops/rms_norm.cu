// rms_norm on CUDA: several neighbouring rows share a block, so that what it writes of a core are whole sectors: 8 columns of a row are 16 bytes.
//
//   a step     2 rows, 512 threads: a thread has 8 columns of a row, and the 8 that are 2048 further on, in registers from the sum of squares to
//              the product. Up to 8 blocks have the same two rows: each adds up all of them, and writes its share.
//   a prompt   8 rows: whole lines. They are read twice, the second time from cache.
//
// Why shares: a multiprocessor takes 4 ns for every piece of a core that it writes, so the 512 pieces of a row 4096 wide took one block 2 us of
// 3.3, while reading the row again costs next to nothing. The weights are loaded before the rows are there.
//
// The order of a row's sum follows from its width alone, in both forms. In units of 8 columns, whose squares a thread adds up:
//
//   unit = [turn][slot 0..3][warp 0..15][place 0..3]     added over turns, rising; then slots, places, warps, each as a tree
//
// A step's lanes are [slot][place][row]; a prompt's are [place][row], and a thread has all four slots.
#include <algorithm>

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/rms_norm.h"

namespace gorgon {

namespace {

constexpr int kWarps = 16;
constexpr int kSlots = 4;
constexpr int kPlaces = 4;
/** Columns from a unit of a thread to that of its next slot, and of its next turn. */
constexpr int64_t kSlotColumns = kWarps * kPlaces * kEight;
constexpr int64_t kTurnColumns = kSlots * kSlotColumns;
constexpr int kStepRows = 2;
constexpr int kPromptRows = 8;
/** Rows from which on a call is a prompt. */
constexpr int64_t kLeastPrompt = 256;
/** Blocks that a step should have for its writes to be quick. */
constexpr int64_t kStepBlocks = 128;
constexpr int64_t kMaxShares = 8;

/** `value` added up over all threads of the same row; `partials` is shared; all threads of the block call it, once. */
template <int kRows>
__device__ __forceinline__ float row_sum(float value, float (*partials)[kWarps]) {
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
#pragma unroll
  for (int step = kWarp / 2; step >= kRows; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  if (lane < kRows) partials[lane][warp] = value;
  __syncthreads();
  float sums[kWarps];
#pragma unroll
  for (int i = 0; i < kWarps; ++i) sums[i] = i < static_cast<int>(blockDim.x) / kWarp ? partials[lane % kRows][i] : 0.0f;
#pragma unroll
  for (int step = kWarps / 2; step > 0; step /= 2) {
#pragma unroll
    for (int i = 0; i < step; ++i) sums[i] += sums[i + step];
  }
  return sums[0];
}

/**
 * grid (groups of rows, shares of what is written)
 *
 * `kTurns`: of a thread, all held in registers; 0: any number, read twice. `kAligned`: eight neighbours can be loaded and stored at once.
 */
template <class T, int kRows, int kTurns, bool kAligned>
__global__ void __launch_bounds__(kWarps* kWarp, 2) rms_norm_rows_kernel(RmsNormArgs args) {
  constexpr int kOwnSlots = kRows * kPlaces * kSlots / kWarp;
  static_assert(kTurns == 0 || kOwnSlots == 1, "only a step's rows are held");
  __shared__ float partials[kRows][kWarps];
  let_next_start();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, place = lane / kRows % kPlaces;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + lane % kRows, width = args.width;
  const int64_t first = (lane / kRows / kPlaces * kOwnSlots) * kSlotColumns + (warp * kPlaces + place) * kEight;
  const bool exists = row < args.rows;
  const float* x = args.x + row * args.x_stride;
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
  constexpr int kHeld = kTurns > 0 ? kTurns : 1;
  float values[kHeld][kEight], weights[kHeld][kEight];
  if (kTurns > 0) {
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) load(args.weight, first + turn * kTurnColumns, weights[turn]);
  }
  wait_for_previous();

  float slots[kOwnSlots] = {};
  const auto add_unit = [&](float& slot, const float(&unit)[kEight]) {
    float squares = 0.0f;
#pragma unroll
    for (int i = 0; i < kEight; ++i) squares = fmaf(unit[i], unit[i], squares);
    slot += squares;
  };
  if constexpr (kTurns > 0) {
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) load(x, first + turn * kTurnColumns, values[turn]);
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) add_unit(slots[0], values[turn]);
  } else {
    for (int64_t column = first; column < width; column += kTurnColumns) {
      float units[kOwnSlots][kEight];
#pragma unroll
      for (int slot = 0; slot < kOwnSlots; ++slot) load(x, column + slot * kSlotColumns, units[slot]);
#pragma unroll
      for (int slot = 0; slot < kOwnSlots; ++slot) add_unit(slots[slot], units[slot]);
    }
  }
#pragma unroll
  for (int step = kOwnSlots / 2; step > 0; step /= 2) {
#pragma unroll
    for (int slot = 0; slot < step; ++slot) slots[slot] += slots[slot + step];
  }
  const float mean = row_sum<kRows>(slots[0], partials) / static_cast<float>(static_cast<int>(width));
  const float scale = 1.0f / sqrtf(mean + args.eps);
  if (!exists || warp % gridDim.y != blockIdx.y) return;

  const auto write = [&](int64_t column, float(&unit)[kEight], const float(&by)[kEight]) {
    if (column >= width) return;
#pragma unroll
    for (int i = 0; i < kEight; ++i) unit[i] = unit[i] * scale * by[i];
    if (args.operand) {
      T* to = static_cast<T*>(args.out) + core_element(row, column, width);
      if (kAligned) {
        store_eight(to, unit);
      } else {
        store_some(to, width - column, unit);
      }
    } else {
      float* to = static_cast<float*>(args.out) + row * args.out_stride + column;
#pragma unroll
      for (int i = 0; i < kEight; ++i) unit[i] = to_float(from_float<T>(unit[i]));
      if (kAligned) {
        store_eight(to, unit);
      } else {
        store_some(to, width - column, unit);
      }
    }
  };
  if constexpr (kTurns > 0) {
#pragma unroll
    for (int turn = 0; turn < kHeld; ++turn) write(first + turn * kTurnColumns, values[turn], weights[turn]);
  } else {
    for (int64_t turn = first; turn < width; turn += kTurnColumns) {
#pragma unroll 2
      for (int slot = 0; slot < kOwnSlots; ++slot) {
        const int64_t column = turn + slot * kSlotColumns;
        load(x, column, values[0]);
        load(args.weight, column, weights[0]);
        write(column, values[0], weights[0]);
      }
    }
  }
}

template <class T>
auto kernel_for(int64_t rows, int64_t turns, bool aligned) {
  if (!aligned) return rms_norm_rows_kernel<T, kStepRows, 0, false>;
  if (rows >= kLeastPrompt) return rms_norm_rows_kernel<T, kPromptRows, 0, true>;
  return turns == 1 ? rms_norm_rows_kernel<T, kStepRows, 1, true> : turns == 2 ? rms_norm_rows_kernel<T, kStepRows, 2, true> : rms_norm_rows_kernel<T, kStepRows, 0, true>;
}

}  // namespace

Status rms_norm_cuda(const RmsNormArgs& args, CudaContext& context) {
  const bool aligned_out = args.operand || (on_16_bytes(args.out) && args.out_stride % 4 == 0);
  const bool aligned = args.width % kEight == 0 && on_16_bytes(args.x) && args.x_stride % 4 == 0 && on_16_bytes(args.weight) && aligned_out;
  const bool prompt = aligned && args.rows >= kLeastPrompt;
  const int64_t groups = divide_up(args.rows, prompt ? kPromptRows : kStepRows);
  // Rows written in place belong to one block, and rows of f32 are written in few pieces anyway.
  const int64_t shares = args.operand && !prompt ? std::min(kMaxShares, std::max<int64_t>(kStepBlocks / groups, 1)) : 1;
  const int64_t warps = std::min<int64_t>(kWarps, divide_up(args.width, kPlaces * kEight));
  return with_dtype(args.dtype, [&](auto type) {
    return launch(context, "rms_norm", kernel_for<decltype(type)>(args.rows, divide_up(args.width, kTurnColumns), aligned),
                  dim3(static_cast<unsigned>(groups), static_cast<unsigned>(shares)), dim3(static_cast<unsigned>(warps * kWarp)), 0, args);
  });
}

}  // namespace gorgon
