// silu_mul on CUDA: a block owns two neighbouring rows of 1024 columns, so that what it writes of a core are whole sectors of 32 bytes; a thread
// has eight neighbours of a row, the next thread those of the other row.
//
//   grid  [pair of rows][part of the width]
//
// The exponential is CUDA's expf (2 units in the last place), the division is rounded correctly.
#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/silu_mul.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kRows = 2;
constexpr int64_t kPartColumns = kThreads / kRows * kEight;

/** `kAligned`: eight neighbours can be loaded at once, everywhere. */
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) silu_mul_cores_kernel(const float* x, int64_t x_stride, int64_t rows, int64_t width, T* out) {
  let_next_start();
  wait_for_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x % kRows;
  const int64_t column = blockIdx.y * kPartColumns + threadIdx.x / kRows * kEight;
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
  const dim3 grid(static_cast<unsigned>(divide_up(args.rows, kRows)), static_cast<unsigned>(divide_up(args.width, kPartColumns)));
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    return launch(context, "silu_mul", aligned ? silu_mul_cores_kernel<T, true> : silu_mul_cores_kernel<T, false>, grid, dim3(kThreads), 0, args.x,
                  args.x_stride, args.rows, args.width, static_cast<T*>(args.out));
  });
}

}  // namespace gorgon
