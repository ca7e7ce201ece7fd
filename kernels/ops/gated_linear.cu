// gated_linear on CUDA: the gated activation is the end of the product, whose rows come as 8 of gate and 8 of up alternately, so that one thread
// has both; but for f32, whose products go apart into the workspace first.
#include "ops/gated_linear.h"

#include "ops/linear_cuda.h"
#include "ops/silu_mul.h"

namespace gorgon {

Status gated_linear_cuda(const GatedLinearArgs& args, CudaContext& context) {
  const int64_t width = args.w.columns / 2;
  Product product{};
  product.x = args.x;
  product.rows = args.rows;
  product.w = args.w.tiles;
  product.columns = 2 * ((width + kCore - 1) / kCore * kCore);
  product.scale = product_scales(args.w.dtype, args.w.tiles, product.columns, args.w.depth);
  product.depth = args.w.depth;
  product.bias = args.bias;
  product.width = width;
  if (args.w.dtype != DType::kF32) {
    product.operand = args.out;
    return multiply_cuda(product, Ending::kGate, args.w.dtype, args.prompt, context);
  }
  product.out = args.workspace;
  product.out_stride = args.w.columns;
  GORGON_TRY(multiply_cuda(product, Ending::kApart, args.w.dtype, args.prompt, context));
  return silu_mul_cuda({args.workspace, args.w.columns, args.rows, width, args.dtype, args.out, args.out_stride}, context);
}

}  // namespace gorgon
