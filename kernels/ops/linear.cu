// linear on CUDA: which product computes it.
//
//            few rows, or decoding          more than 64 rows of a prompt
//   bf16/f16 linear_hopper.cuh (wgmma), or linear_decode.cu, linear_prompt.cu (mma.sync)
//   int8     linear_decode.cu               widened to bf16 in scratch memory, then as bf16
//   f32      linear_f32.cu                  linear_f32.cu
#include "ops/linear.h"

#include "common/device.cuh"
#include "ops/linear_cuda.h"
#include "ops/linear_hopper.cuh"

namespace gorgon {

namespace {

/** Prompts of no more rows go the way of decoding, which reads a weight as fast as memory gives it. */
constexpr int64_t kFewRows = 64;
/** Bytes of an int8 weight, widened, that are multiplied at a time: a piece's tiles must keep all multiprocessors busy several times over. */
constexpr int64_t kWidenedBytes = int64_t{128} << 20;

Status run_hopper(const Product& product, Ending ending, DType dtype, bool few, CudaContext& context) {
  HopperProduct to{};
  to.x = product.x;
  to.rows = product.rows;
  to.w = product.w;
  to.columns = product.columns;
  to.depth = product.depth;
  to.bias = product.bias;
  to.epilogue = ending == Ending::kGate ? Epilogue::kGate : ending == Ending::kAdd ? Epilogue::kAdd : Epilogue::kStore;
  to.out = product.out;
  to.out_stride = product.out_stride;
  to.operand = product.operand;
  to.width = product.width;
  to.scale = product.scale;
  if (dtype == DType::kF16) return few ? multiply_decode_hopper<__half>(to, context) : multiply_prompt_hopper<__half>(to, context);
  return few ? multiply_decode_hopper<__nv_bfloat16>(to, context) : multiply_prompt_hopper<__nv_bfloat16>(to, context);
}

/** An int8 weight, some of its rows at a time, as bf16. */
Status run_widened(const Product& product, Ending ending, CudaContext& context) {
  // Pieces of four blocks of 64 rows, which of a gated weight are two of features: each begins with a block of the operand and, where the width
  // is whole in them, ends where its tiles do. Other widths (of small models, if at all) are not cut.
  const int64_t row_bytes = depth_blocks(product.depth) * kBlock * 2, least = 4 * kBlock;
  const bool whole = ending == Ending::kGate && product.width % (least / 2) != 0;
  const int64_t pieces = whole ? 1 : divide_up(product.columns * row_bytes, kWidenedBytes), most = round_up(divide_up(product.columns, pieces), least);
  char* widened = nullptr;
  GORGON_TRY(context.scratch(most * row_bytes, &widened));
  for (int64_t first = 0; first < product.columns; first += most) {
    Product piece = product;
    piece.w = widened;
    piece.columns = product.columns - first < most ? product.columns - first : most;
    piece.scale = product.scale + first;
    GORGON_TRY(widen_int8(product.w, first, piece.columns, product.depth, widened, context));
    if (ending == Ending::kGate) {
      // Features count from the piece's first one; the operand's rows stay as wide as they are.
      const int64_t feature = first / 2;
      piece.bias = product.bias == nullptr ? nullptr : product.bias + feature;
      piece.operand = static_cast<__nv_bfloat16*>(product.operand) + feature / kBlock * kBlockElements;
    } else {
      piece.bias = product.bias == nullptr ? nullptr : product.bias + first;
      piece.out = product.out + first;
    }
    GORGON_TRY(multiply_many_rows_cuda(piece, ending, DType::kBf16, context));
  }
  return {};
}

}  // namespace

Status multiply_many_rows_cuda(const Product& product, Ending ending, DType dtype, CudaContext& context) {
  if (dtype == DType::kF32) return multiply_prompt_f32(product, ending, context);
  return context.hopper ? run_hopper(product, ending, dtype, false, context) : multiply_prompt_mma(product, ending, dtype, context);
}

Status multiply_cuda(const Product& product, Ending ending, DType dtype, bool prompt, CudaContext& context) {
  const bool few = !prompt || product.rows <= kFewRows;
  ProductList list{};
  list.items[0] = product;
  list.count = 1;
  list.ending = ending;
  if (!few) return dtype == DType::kInt8 ? run_widened(product, ending, context) : multiply_many_rows_cuda(product, ending, dtype, context);
  if (dtype == DType::kF32) return multiply_decode_f32(list, context);
  if (context.hopper && dtype != DType::kInt8) return run_hopper(product, ending, dtype, true, context);
  return multiply_decode_mma(list, dtype, context);
}

Status linear_cuda(const LinearArgs& args, CudaContext& context) {
  Product product{};
  product.x = args.x;
  product.rows = args.rows;
  product.w = args.w.tiles;
  product.scale = product_scales(args.w.dtype, args.w.tiles, args.w.columns, args.w.depth);
  product.columns = args.w.columns;
  product.depth = args.w.depth;
  product.bias = args.bias;
  product.out = args.out;
  product.out_stride = args.out_stride;
  return multiply_cuda(product, args.add ? Ending::kAdd : Ending::kStore, args.w.dtype, args.prompt, context);
}

}  // namespace gorgon
