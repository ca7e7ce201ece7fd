// Ranks on a device: the one order of best_list.h (larger score first, ties to the lower id, NaN last) as numbers.
#pragma once

#include "common/device.cuh"

namespace gorgon {

/** Bits whose unsigned order is the order of floats; -0 counts as 0, NaN is below everything. */
__device__ __forceinline__ uint32_t ordered_bits(float value) {
  if (value != value) return 0;
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/** The float whose ordered_bits these are; `bits` is not 0. */
__device__ __forceinline__ float ordered_float(uint32_t bits) { return __uint_as_float(bits & 0x80000000u ? bits & 0x7fffffffu : ~bits); }

/** A score and an id as one number: of two the larger is the better one. Never 0. */
__device__ __forceinline__ uint64_t rank_of(uint32_t ordered, uint32_t id) { return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - id); }

__host__ __device__ __forceinline__ int32_t rank_id(uint64_t rank) { return static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(rank)); }

/** The best of a warp's ranks, in every lane. */
__device__ __forceinline__ uint64_t warp_best(uint64_t rank) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, rank, step);
    rank = other > rank ? other : rank;
  }
  return rank;
}

}  // namespace gorgon
