// Values of a dtype on a device: which type of C++ they have, and eight neighbours at once, which is a row of a core (common/cores.h).
#pragma once

#include "common/device.cuh"
#include "common/status.h"

namespace gorgon {

/** Calls `body` with a value of the type that `dtype`, which is not int8, has on a device. */
template <class Body>
Status with_dtype(DType dtype, const Body& body) {
  if (dtype == DType::kBf16) return body(__nv_bfloat16{});
  if (dtype == DType::kF16) return body(__half{});
  return body(float{});
}

constexpr int kEight = 8;

static inline bool on_16_bytes(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

/** From 16-byte boundaries. */
__device__ __forceinline__ void load_eight(const float* from, float (&values)[kEight]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
  values[0] = low.x, values[1] = low.y, values[2] = low.z, values[3] = low.w;
  values[4] = high.x, values[5] = high.y, values[6] = high.z, values[7] = high.w;
}

/** The first `count` of eight, zeros behind them; of any alignment. */
__device__ __forceinline__ void load_some(const float* from, int64_t count, float (&values)[kEight]) {
#pragma unroll
  for (int i = 0; i < kEight; ++i) values[i] = i < count ? from[i] : 0.0f;
}

/** Rounded; to 16-byte boundaries. */
template <class T>
__device__ __forceinline__ void store_eight(T* to, const float (&values)[kEight]) {
  *reinterpret_cast<uint4*>(to) = make_uint4(pack_pair<T>(values[0], values[1]), pack_pair<T>(values[2], values[3]), pack_pair<T>(values[4], values[5]),
                                             pack_pair<T>(values[6], values[7]));
}
template <>
__device__ __forceinline__ void store_eight(float* to, const float (&values)[kEight]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(values[0], values[1], values[2], values[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(values[4], values[5], values[6], values[7]);
}

/** The first `count` of eight, rounded; the others stay. */
template <class T>
__device__ __forceinline__ void store_some(T* to, int64_t count, const float (&values)[kEight]) {
#pragma unroll
  for (int i = 0; i < kEight; ++i) {
    if (i < count) to[i] = from_float<T>(values[i]);
  }
}

}  // namespace gorgon
