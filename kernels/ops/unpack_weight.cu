// unpack_weight on CUDA: a thread has eight neighbours of depth of a row, which are a core's row, or half of a lane's share of an int8 slice.
//
//   grid  [group of 8 rows][part of the depth]      8 lanes have 8 rows: what is read of cores are whole lines, of a row whole sectors are written
#include "ops/unpack_weight.h"

#include "common/cuda_context.h"
#include "common/values.cuh"
#include "ops/linear_cuda.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
/** Of depth, a block's share of 8 rows. */
constexpr int64_t kShare = kThreads / kCore * kEight;

template <class T>
__device__ __forceinline__ void load_weights(const T* tiles, const float*, int64_t row, int64_t k, int64_t depth, float (&values)[kEight]) {
  union {
    uint4 words;
    T elements[kEight];
  } core;
  core.words = *reinterpret_cast<const uint4*>(tiles + core_element(row, k, depth));
#pragma unroll
  for (int i = 0; i < kEight; ++i) values[i] = to_float(core.elements[i]);
}
__device__ __forceinline__ void load_weights(const float* tiles, const float*, int64_t row, int64_t k, int64_t depth, float (&values)[kEight]) {
  load_eight(tiles + core_element(row, k, depth), values);
}
__device__ __forceinline__ void load_weights(const int8_t* tiles, const float* scales, int64_t row, int64_t k, int64_t depth, float (&values)[kEight]) {
  const float scale = scales[row];
#pragma unroll
  for (int i = 0; i < kEight; ++i) values[i] = static_cast<float>(tiles[int8_weight_element(row, k + i, depth)]) * scale;
}

/** `kAligned`: eight neighbours can be stored at once, everywhere. */
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) unpack_rows_kernel(const T* tiles, const float* scales, int64_t rows, int64_t depth, float* out) {
  let_next_start();
  wait_for_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kCore + threadIdx.x % kCore;
  const int64_t k = static_cast<int64_t>(blockIdx.y) * kShare + threadIdx.x / kCore * kEight;
  if (row >= rows || k >= depth) return;
  float values[kEight];
  load_weights(tiles, scales, row, k, depth, values);
  if (kAligned) {
    store_eight(out + row * depth + k, values);
  } else {
    store_some(out + row * depth + k, depth - k, values);
  }
}

}  // namespace

Status unpack_weight_cuda(const UnpackWeightArgs& args, CudaContext& context) {
  const PackedMatrix& w = args.w;
  const dim3 grid(static_cast<unsigned>(divide_up(w.columns, kCore)), static_cast<unsigned>(divide_up(w.depth, kShare)));
  const bool aligned = w.depth % kEight == 0 && on_16_bytes(args.out);
  const auto unpack = [&](auto type) {
    using T = decltype(type);
    return launch(context, "unpack_weight", aligned ? unpack_rows_kernel<T, true> : unpack_rows_kernel<T, false>, grid, dim3(kThreads), 0,
                  reinterpret_cast<const T*>(w.tiles), product_scales(w.dtype, w.tiles, w.columns, w.depth), w.columns, w.depth, args.out);
  };
  return w.dtype == DType::kInt8 ? unpack(int8_t{}) : with_dtype(w.dtype, unpack);
}

}  // namespace gorgon
