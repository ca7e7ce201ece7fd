// rope_angles on CUDA: a thread per angle, in f64: a prompt asks for some million of them once.
#include "common/cuda_context.h"
#include "common/device.cuh"
#include "ops/rope_angles.h"

namespace gorgon {

namespace {

__global__ void rope_angles_kernel(RopeAnglesArgs args) {
  let_next_start();
  wait_for_previous();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= args.count * args.half) return;
  const int64_t position = args.first + at / args.half, i = at % args.half;
  const float angle = __fmul_rn(static_cast<float>(position), args.inverse_frequencies[i]);
  double sine, cosine;
  sincos(static_cast<double>(angle), &sine, &cosine);
  args.cos[position * args.half + i] = static_cast<float>(cosine) * args.scale;
  args.sin[position * args.half + i] = static_cast<float>(sine) * args.scale;
}

}  // namespace

Status rope_angles_cuda(const RopeAnglesArgs& args, CudaContext& context) {
  constexpr int64_t kThreads = 256;
  const int64_t blocks = divide_up(args.count * args.half, kThreads);
  return launch(context, "rope_angles", rope_angles_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads), 0, args);
}

}  // namespace gorgon
