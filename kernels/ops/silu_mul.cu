// silu_mul on CUDA: a thread has eight neighbours of a row, which are 16 bytes of a core; its neighbours have those of the next rows, so that what is
// written of a core are whole lines, of 8 rows, or whole sectors, of 2 where there are no more.
//
//   grid  [group of rows][part of the width]
//
// The exponential is CUDA's expf (2 units in the last place), the division is rounded correctly.
#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/silu_mul.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;

/** `kAligned`: eight neighbours can be loaded at once, everywhere. */
template <class T, int kRows, bool kAligned>
__global__ void __launch_bounds__(kThreads) silu_mul_cores_kernel(const float* x, int64_t x_stride, int64_t rows, int64_t width, T* out) {
  let_next_start();
  wait_for_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x % kRows;
  const int64_t column = (static_cast<int64_t>(blockIdx.y) * (kThreads / kRows) + threadIdx.x / kRows) * kEight;
  if (row >= rows || column >= width) return;
  const float* from = x + row * x_stride + column;
  float gate[kEight], up[kEight];
  if (kAligned) {
    load_eight(from, gate);
    load_eight(from + width, up);
  } else {
    load_some(from, width - column, gate);
    load_some(from + width, width - column, up);
  }
#pragma unroll
  for (int i = 0; i < kEight; ++i) gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
  T* to = out + core_element(row, column, width);
  if (kAligned) {
    store_eight(to, gate);
  } else {
    store_some(to, width - column, gate);
  }
}

}  // namespace

Status silu_mul_cuda(const SiluMulArgs& args, CudaContext& context) {
  const bool aligned = args.width % kEight == 0 && on_16_bytes(args.x) && args.x_stride % 4 == 0;
  const int64_t rows = aligned && args.rows > 2 ? kCore : 2;
  const dim3 grid(static_cast<unsigned>(divide_up(args.rows, rows)), static_cast<unsigned>(divide_up(args.width, kThreads / rows * kEight)));
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto kernel = !aligned ? silu_mul_cores_kernel<T, 2, false> : rows == 2 ? silu_mul_cores_kernel<T, 2, true> : silu_mul_cores_kernel<T, kCore, true>;
    return launch(context, "silu_mul", kernel, grid, dim3(kThreads), 0, args.x, args.x_stride, args.rows, args.width, static_cast<T*>(args.out));
  });
}

}  // namespace gorgon
