// residual_silu_gradient on CUDA: a thread has eight neighbours of a row; its neighbours have those of the next rows, so that what is written of an
// operand's cores are whole lines.
//
//   grid  [group of 8 rows][part of the width]
#include "ops/residual_silu_gradient.h"

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
/** Columns of a block's share of 8 rows. */
constexpr int64_t kShare = kThreads / kCore * kEight;

/** Of silu; far from zero, where e^-a overflows or vanishes, 0 and 1. */
__device__ __forceinline__ float silu_slope(float a) {
  const float s = 1.0f / (1.0f + expf(-a));
  return s * (1.0f + a * (1.0f - s));
}

/** `kAligned`: eight neighbours can be loaded at once, everywhere. */
template <class T, bool kAligned>
__global__ void __launch_bounds__(kThreads) residual_silu_gradient_cores_kernel(const float* a, int64_t a_stride, const float* dz, int64_t dz_stride, int64_t rows,
                                                                               int64_t width, T* da) {
  let_next_start();
  wait_for_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kCore + threadIdx.x % kCore;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kShare + threadIdx.x / kCore * kEight;
  if (row >= rows || column >= width) return;
  const float* of_product = a + row * a_stride + column;
  const float* of_result = dz + row * dz_stride + column;
  T* to = da + core_element(row, column, width);
  float product[kEight], gradient[kEight];
  if (kAligned) {
    load_eight(of_product, product);
    load_eight(of_result, gradient);
  } else {
    load_some(of_product, width - column, product);
    load_some(of_result, width - column, gradient);
  }
#pragma unroll
  for (int i = 0; i < kEight; ++i) gradient[i] *= silu_slope(product[i]);
  if (kAligned) {
    store_eight(to, gradient);
  } else {
    store_some(to, width - column, gradient);
  }
}

}  // namespace

Status residual_silu_gradient_cuda(const ResidualSiluGradientArgs& args, CudaContext& context) {
  const bool aligned = args.width % kEight == 0 && on_16_bytes(args.a) && args.a_stride % 4 == 0 && on_16_bytes(args.dz) && args.dz_stride % 4 == 0;
  const dim3 grid(static_cast<unsigned>(divide_up(args.rows, kCore)), static_cast<unsigned>(divide_up(args.width, kShare)));
  return with_dtype(args.dtype, [&](auto type) {
    using T = decltype(type);
    const auto kernel = aligned ? residual_silu_gradient_cores_kernel<T, true> : residual_silu_gradient_cores_kernel<T, false>;
    return launch(context, "residual_silu_gradient", kernel, grid, dim3(kThreads), 0, args.a, args.a_stride, args.dz, args.dz_stride, args.rows, args.width,
                  static_cast<T*>(args.da));
  });
}

}  // namespace gorgon
