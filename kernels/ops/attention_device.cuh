// attention_device: what the kernels of attention share: which rows a query sees, powers of two, and the rings and barriers of warpgroups.
#pragma once

#include "common/device.cuh"
#include "common/hopper.cuh"
#include "ops/kv_layout.h"

namespace gorgon {

constexpr float kLog2E = 1.4426950408889634f;

/** 2^x, relative error below 2^-22; 0 for minus infinity. Only where the result is rounded to 8 or 11 bits or is a tolerance away from it. */
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/** First row a query at `position` sees through an attention window: 0 without one. Rows [0, rows) of `positions` ascend. */
__device__ __forceinline__ int first_row_in_window(const int32_t* positions, int rows, int64_t position, int64_t window) {
  if (window <= 0 || positions == nullptr) return 0;
  const int64_t oldest = position - window + 1;
  int low = 0, high = rows;
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (positions[middle] < oldest) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/** Max and sum over the four lanes that share a row of an mma's result; the order is the same in all four. */
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(kAllLanes, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(kAllLanes, value, 1);
  return value + __shfl_xor_sync(kAllLanes, value, 2);
}

// ---- warpgroups ----

constexpr int kWarpgroup = 128;

#ifdef GORGON_SM90A

/** Nobody moves what reads or writes these over this place: wgmma fills them behind the compiler's back. */
template <int n>
__device__ __forceinline__ void pin(float (&values)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

template <int n>
__device__ __forceinline__ void pin(uint32_t (&values)[n][4]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(values[i][0]), "+r"(values[i][1]), "+r"(values[i][2]), "+r"(values[i][3])::"memory");
}

__device__ __forceinline__ void group_sync(int barrier, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }
__device__ __forceinline__ void group_arrive(int barrier, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory"); }

/** A ring's next stage and the parity of its barriers. */
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

#endif  // GORGON_SM90A

}  // namespace gorgon
