// residual_silu on CUDA: a thread has eight neighbours of a row; its neighbours have those of the next rows, so that what is written of an operand's
// cores are whole lines.
//
//   grid  [group of 8 rows][part of the width]
//
// Memory decides: 12 bytes of f32 a value, and an operand's 2 or 4.
#include "ops/residual_silu.h"

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"
#include "ops/linear_endings.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
/** Columns of a block's share of 8 rows. */
constexpr int64_t kShare = kThreads / kCore * kEight;

/** `kAligned`: eight neighbours can be loaded at once, everywhere. */
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) residual_silu_cores_kernel(const float* a, int64_t a_stride, int64_t rows, int64_t width, float* z, int64_t z_stride,
                                                                      T* out) {
  let_next_start();
  wait_for_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kCore + threadIdx.x % kCore;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kShare + threadIdx.x / kCore * kEight;
  if (row >= rows || column >= width) return;
  const float* from = a + row * a_stride + column;
  float* sum = z + row * z_stride + column;
  T* to = out + core_element(row, column, width);
  float product[kEight], value[kEight];
  if (kAligned) {
    load_eight(from, product);
    load_eight(sum, value);
  } else {
    load_some(from, width - column, product);
    load_some(sum, width - column, value);
  }
#pragma unroll
  for (int i = 0; i < kEight; ++i) value[i] += silu(product[i]);
  if (kAligned) {
    store_eight(sum, value);
    store_eight(to, value);
  } else {
    store_some(sum, width - column, value);
    store_some(to, width - column, value);
  }
}

}  // namespace

Status residual_silu_cuda(const ResidualSiluArgs& args, CudaContext& context) {
  const bool aligned = args.width % kEight == 0 && on_16_bytes(args.a) && args.a_stride % 4 == 0 && on_16_bytes(args.z) && args.z_stride % 4 == 0;
  const dim3 grid(static_cast<unsigned>(divide_up(args.rows, kCore)), static_cast<unsigned>(divide_up(args.width, kShare)));
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto kernel = aligned ? residual_silu_cores_kernel<T, true> : residual_silu_cores_kernel<T, false>;
    return launch(context, "residual_silu", kernel, grid, dim3(kThreads), 0, args.a, args.a_stride, args.rows, args.width, args.z, args.z_stride,
                  static_cast<T*>(args.out));
  });
}

}  // namespace gorgon
