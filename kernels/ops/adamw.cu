// adamw on CUDA: a thread has four neighbours of each array. 32 bytes a value go through memory, and nothing else takes time.
//
// Every operation is rounded by itself, as the contract says: the compiler must fuse none of them.
#include "ops/adamw.h"

#include "common/cuda_context.h"
#include "common/packed.h"
#include "common/values.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kFour = 4;

__device__ __forceinline__ void step(const AdamwArgs& args, float& weight, float& mean, float& variance, float gradient) {
  const float g = __fmul_rn(args.gradient_scale, gradient);
  mean = __fadd_rn(__fmul_rn(args.beta1, mean), __fmul_rn(__fsub_rn(1.0f, args.beta1), g));
  variance = __fadd_rn(__fmul_rn(args.beta2, variance), __fmul_rn(__fmul_rn(__fsub_rn(1.0f, args.beta2), g), g));
  const float root = __fadd_rn(__fsqrt_rn(__fdiv_rn(variance, args.correction2)), args.epsilon);
  const float change = __fadd_rn(__fdiv_rn(__fdiv_rn(mean, args.correction1), root), __fmul_rn(args.decay, weight));
  weight = __fsub_rn(weight, __fmul_rn(args.rate, change));
}

__global__ void __launch_bounds__(kThreads) adamw_fours_kernel(const __grid_constant__ AdamwArgs args) {
  let_next_start();
  wait_for_previous();
  const int64_t first = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * kFour;
  if (first + kFour <= args.count) {
    float4 weight = *reinterpret_cast<const float4*>(args.weights + first), mean = *reinterpret_cast<const float4*>(args.mean + first);
    float4 variance = *reinterpret_cast<const float4*>(args.variance + first);
    const float4 gradient = *reinterpret_cast<const float4*>(args.gradient + first);
    step(args, weight.x, mean.x, variance.x, gradient.x);
    step(args, weight.y, mean.y, variance.y, gradient.y);
    step(args, weight.z, mean.z, variance.z, gradient.z);
    step(args, weight.w, mean.w, variance.w, gradient.w);
    *reinterpret_cast<float4*>(args.weights + first) = weight;
    *reinterpret_cast<float4*>(args.mean + first) = mean;
    *reinterpret_cast<float4*>(args.variance + first) = variance;
    *reinterpret_cast<float4*>(args.gradient + first) = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return;
  }
  for (int64_t i = first; i < args.count; ++i) {
    step(args, args.weights[i], args.mean[i], args.variance[i], args.gradient[i]);
    args.gradient[i] = 0.0f;
  }
}

/** For arrays that do not begin on 16 bytes. */
__global__ void __launch_bounds__(kThreads) adamw_singles_kernel(const __grid_constant__ AdamwArgs args) {
  let_next_start();
  wait_for_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.count) return;
  step(args, args.weights[i], args.mean[i], args.variance[i], args.gradient[i]);
  args.gradient[i] = 0.0f;
}

}  // namespace

Status adamw_cuda(const AdamwArgs& args, CudaContext& context) {
  const bool aligned = on_16_bytes(args.weights) && on_16_bytes(args.mean) && on_16_bytes(args.variance) && on_16_bytes(args.gradient);
  return launch(context, "adamw", aligned ? adamw_fours_kernel : adamw_singles_kernel, blocks_of(aligned ? divide_up(args.count, kFour) : args.count, kThreads),
                dim3(kThreads), 0, args);
}

}  // namespace gorgon
