// medusa_heads on CUDA: for R blocks, R + 1 launches before the projection.
//
//   rows z_0 as an operand                                    one small launch
//   per block: all heads' products, z + silu(..) at their end one launch (linear_decode.cu, linear_f32.cu: all heads' rows are one range)
//   projection: shared, one product of M * S rows; private, one per head
//
// Between the launches, in scratch memory: z in f32 [M * S, C], and two sets of operands, of which a block reads one and writes the other. A set
// holds each head's S rows from a block of 64 rows on, so that heads are operands of their own; for a shared projection the last block writes
// all heads' rows one behind the other instead.
#include "ops/medusa_heads.h"

#include "common/device.cuh"
#include "ops/linear_cuda.h"

namespace gorgon {

namespace {

constexpr int kThreads = 256;

/** Row m * S + s of `to` becomes x[s], for M = `copies` heads. Padding stays as it is. */
template <class T>
__global__ void repeat_rows_kernel(const float* __restrict__ x, int64_t x_stride, int64_t rows, int64_t width, int64_t copies, T* __restrict__ to) {
  let_next_start();
  wait_for_previous();
  const int64_t groups = depth_blocks(width) * (kBlock / kCore), thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= copies * rows * groups) return;
  const int64_t row = thread / groups, k = thread % groups * kCore;
  T* core = to + core_element(row, k, width);
#pragma unroll
  for (int i = 0; i < kCore; ++i) core[i] = from_float<T>(k + i < width ? x[row % rows * x_stride + k + i] : 0.0f);
}

/** Zeros where the depth of `rows` rows of an operand is padded: scratch memory holds anything. */
template <class T>
__global__ void clear_padding_kernel(T* __restrict__ operand, int64_t rows, int64_t width) {
  let_next_start();
  wait_for_previous();
  const int64_t padded = depth_blocks(width) * kBlock, padding = padded - width, thread = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (thread >= rows * padding) return;
  operand[core_element(thread / padding, width + thread % padding, width)] = from_float<T>(0.0f);
}

template <class T>
Status run(const MedusaHeadsArgs& args, CudaContext& context) {
  const int64_t heads = args.head_count, rows = args.rows, width = args.width;
  const int64_t head_rows = (rows + kBlock - 1) / kBlock * kBlock, set_rows = heads * head_rows, set = core_matrix_elements(set_rows, width);
  const bool apart = !args.shared_projection;
  const int64_t residual_bytes = (heads * rows * width * static_cast<int64_t>(sizeof(float)) + 255) / 256 * 256;
  char* scratch = nullptr;
  GORGON_TRY(context.scratch(residual_bytes + 2 * set * static_cast<int64_t>(sizeof(T)), &scratch));
  float* z = reinterpret_cast<float*>(scratch);
  T* sets[2] = {reinterpret_cast<T*>(scratch + residual_bytes), nullptr};
  sets[1] = sets[0] + set;

  // Without blocks every head projects the same rows: a shared projection takes them M times over, private ones share them.
  const bool no_blocks = args.block_count == 0;
  const int64_t copies = no_blocks && !apart ? heads : 1, groups = depth_blocks(width) * (kBlock / kCore);
  GORGON_TRY(launch(context, "medusa_heads", repeat_rows_kernel<T>, blocks_of(copies * rows * groups, kThreads), dim3(kThreads), 0, args.x, args.x_stride,
                    rows, width, copies, sets[0]));
  const int64_t padding = depth_blocks(width) * kBlock - width;
  if (padding > 0 && !no_blocks) {
    GORGON_TRY(launch(context, "medusa_heads", clear_padding_kernel<T>, blocks_of(set_rows * padding, kThreads), dim3(kThreads), 0, sets[1], set_rows, width));
  }
  for (int64_t block = 0; block < args.block_count; ++block) {
    const bool last = block + 1 == args.block_count;
    if (block == 1 && padding > 0) {  // the first set had only the rows that all heads share
      GORGON_TRY(launch(context, "medusa_heads", clear_padding_kernel<T>, blocks_of(set_rows * padding, kThreads), dim3(kThreads), 0, sets[0], set_rows, width));
    }
    const T* from = sets[block % 2];
    T* to = sets[(block + 1) % 2];
    ProductList list{};
    list.ending = Ending::kBlock;
    const PackedMatrix& shape = args.heads[0].blocks[block];
    for (int64_t head = 0; head < heads; ++head) {
      const PackedMatrix& w = args.heads[head].blocks[block];
      Product& product = list.items[list.count++];
      product = {};
      product.x = block == 0 ? from : from + core_matrix_elements(head * head_rows, width);
      product.rows = rows;
      product.w = w.tiles;
      product.scale = product_scales(w.dtype, w.tiles, width, width);
      product.columns = width;
      product.depth = width;
      product.bias = args.heads[head].biases[block];
      product.out = z + head * rows * width;
      product.out_stride = width;
      product.operand = to;
      product.operand_row = last && !apart ? head * rows : head * head_rows;
      product.width = width;
      product.residual = block == 0 ? args.x : product.out;
      product.residual_stride = block == 0 ? args.x_stride : width;
      if (list.count < kMostProducts && head + 1 < heads) continue;
      GORGON_TRY(shape.dtype == DType::kF32 ? multiply_decode_f32(list, context) : multiply_decode_mma(list, shape.dtype, context));
      list.count = 0;
    }
  }
  const T* operands = sets[args.block_count % 2];
  for (int64_t head = 0; head < (apart ? heads : 1); ++head) {
    const PackedMatrix& w = args.heads[head].projection;
    Product product{};
    product.x = apart && !no_blocks ? operands + core_matrix_elements(head * head_rows, width) : operands;
    product.rows = apart ? rows : heads * rows;
    product.w = w.tiles;
    product.scale = product_scales(w.dtype, w.tiles, w.columns, w.depth);
    product.columns = w.columns;
    product.depth = w.depth;
    product.out = args.logits + head * rows * args.logits_stride;
    product.out_stride = args.logits_stride;
    // The way that is fastest for a few rows, which are what heads have; no other operation has to give their bits.
    ProductList list{};
    list.items[0] = product;
    list.count = 1;
    list.ending = Ending::kStore;
    GORGON_TRY(w.dtype == DType::kF32 ? multiply_decode_f32(list, context) : multiply_decode_mma(list, w.dtype, context));
  }
  return {};
}

}  // namespace

Status medusa_heads_cuda(const MedusaHeadsArgs& args, CudaContext& context) {
  switch (args.dtype) {
    case DType::kF32:
      return run<float>(args, context);
    case DType::kF16:
      return run<__half>(args, context);
    default:
      return run<__nv_bfloat16>(args, context);
  }
}

}  // namespace gorgon
