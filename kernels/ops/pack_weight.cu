// pack_weight on CUDA: a thread writes eight neighbours of a core's row, and its neighbours the other rows of the core: whole lines.
//
//   plain        the eight are neighbours of a source row: two loads of 16 bytes, of 8 rows by 32 columns for a warp
//   transposed   the eight are one column of eight source rows: eight loads, each of 32 neighbouring columns for a warp
//
//   grid  [8 or 32 rows of the weight][a part of its depth], edges rounded up to 64, where zeros are written
//
// Products on Hopper read weights before they wait for the kernels before them. So this one, unlike others, lets none start until it is done.
#include "ops/pack_weight.h"

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
/** Of depth, a block's share of its rows: 8 of them, or 32 where it is transposed. */
constexpr int64_t kPlainShare = kThreads / kCore * kEight;
constexpr int64_t kTransposedShare = kThreads / kWarp * kEight;

/** `kAligned`: eight neighbours can be loaded at once, everywhere. */
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) pack_plain_kernel(const float* source, int64_t rows, int64_t depth, T* tiles) {
  wait_for_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kCore + threadIdx.x % kCore;
  const int64_t k = static_cast<int64_t>(blockIdx.y) * kPlainShare + threadIdx.x / kCore * kEight;
  if (k >= depth_blocks(depth) * kBlock) return;
  float values[kEight];
  if (kAligned && row < rows && k < depth) {
    load_eight(source + row * depth + k, values);
  } else {
    load_some(source + row * depth + k, row < rows ? depth - k : 0, values);
  }
  store_eight(tiles + core_element(row, k, depth), values);
}

/** `rows` and `depth` are the source's: the weight has [depth, rows]. */
template <class T>
__global__ void __launch_bounds__(kThreads) pack_transposed_kernel(const float* source, int64_t rows, int64_t depth, T* tiles) {
  wait_for_previous();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTransposedShare + threadIdx.x / kWarp * kEight;
  if (row >= depth_blocks(rows) * kBlock) return;
  float values[kEight];
#pragma unroll
  for (int i = 0; i < kEight; ++i) values[i] = column < depth && row + i < rows ? source[(row + i) * depth + column] : 0.0f;
  store_eight(tiles + core_element(column, row, rows), values);
}

}  // namespace

Status pack_weight_cuda(const PackWeightArgs& args, CudaContext& context) {
  const int64_t rows = round_up(args.rows, kBlock), depth = round_up(args.depth, kBlock);
  const bool aligned = args.depth % kEight == 0 && on_16_bytes(args.source);
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto pack = [&](auto kernel, int64_t blocks, int64_t shares) {
      return launch(context, "pack_weight", kernel, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(shares)), dim3(kThreads), 0, args.source, args.rows,
                    args.depth, static_cast<T*>(args.tiles));
    };
    if (args.transposed) return pack(pack_transposed_kernel<T>, depth / kWarp, divide_up(rows, kTransposedShare));
    return pack(aligned ? pack_plain_kernel<T, true> : pack_plain_kernel<T, false>, rows / kCore, divide_up(depth, kPlainShare));
  });
}

}  // namespace gorgon
