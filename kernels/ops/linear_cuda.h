// Products on CUDA, as `linear`, `gated_linear` and `medusa_heads` ask for them: everything but what wgmma computes (linear_hopper.cuh).
//
// Weights are cores (common/cores.h) of f32, f16 or bf16, or int8 as int8_weight_element says:
//
//   int8   [rows / 16][depth / 32] cells of [32 lanes][16 bytes], rows and depth rounded up to 64; behind them f32 [rows rounded up] scales
//
// A lane's 16 bytes of a cell are what it holds of two mma operands: 8 from row l / 4, then 8 from row l / 4 + 8, at depths 2 (l % 4) and 1 more
// in each 8. Two such pairs share 4 bytes, one in the even bytes, one in the odd: a mask leaves them in two halves.
#pragma once

#include "common/cores.h"
#include "common/cuda_context.h"
#include "common/dtype.h"

namespace gorgon {

constexpr int64_t kInt8UnitRows = 16, kInt8SliceDepth = 32;
constexpr int64_t kInt8CellBytes = kInt8UnitRows * kInt8SliceDepth;

/** Slices, side by side, of a depth: two per block, so that they meet the same blocks of an operand. */
GORGON_HOST_DEVICE static inline int64_t int8_slices(int64_t depth) { return 2 * depth_blocks(depth); }

/** Byte index of element (row, k). */
GORGON_HOST_DEVICE static inline int64_t int8_weight_element(int64_t row, int64_t k, int64_t depth) {
  const int64_t cell = row / kInt8UnitRows * int8_slices(depth) + k / kInt8SliceDepth, lane = row % 8 * 4 + k % 8 / 2;
  return cell * kInt8CellBytes + lane * 16 + row / 8 % 2 * 8 + k % 32 / 16 * 4 + k % 2 * 2 + k % 16 / 8;
}

GORGON_HOST_DEVICE static inline int64_t int8_scales_offset(int64_t rows, int64_t depth) {
  return (rows + kBlock - 1) / kBlock * (kBlock / kInt8UnitRows) * int8_slices(depth) * kInt8CellBytes;
}

/** The scales of an int8 weight; null of others. */
static inline const float* product_scales(DType dtype, const void* w, int64_t rows, int64_t depth) {
  if (dtype != DType::kInt8) return nullptr;
  return reinterpret_cast<const float*>(static_cast<const char*>(w) + int8_scales_offset(rows, depth));
}

/** What becomes of a sum s, after its scale and bias. */
enum class Ending {
  /** out = s */
  kStore,
  /** out += s */
  kAdd,
  /** operand = silu(gate's s) * up's s; `columns` are the packed rows, 8 of gate and 8 of up alternately */
  kGate,
  /** out = residual + silu(s), and operand = the same, rounded */
  kBlock,
  /** out[m, part * width + f] = s, of a gated weight: gate's products, then up's */
  kApart,
};

struct Product {
  /** Cores. */
  const void* x;
  int64_t rows;
  const void* w;
  const float* scale;
  int64_t columns;
  int64_t depth;
  /** Or null; of a gated weight [2 * width], gate's then up's. */
  const float* bias;
  float* out;
  int64_t out_stride;
  /** Cores whose depth is `width`; the first row written is `operand_row`. */
  void* operand;
  int64_t operand_row;
  /** Of a gated weight: columns of each part. */
  int64_t width;
  const float* residual;
  int64_t residual_stride;
};

constexpr int kMostProducts = 8;

/** Products with the same rows, columns and depth, which one launch computes. */
struct ProductList {
  Product items[kMostProducts];
  int count;
  Ending ending;
};

/** One product, by what suits its dtype, its rows and the device; kBlock only where linear_decode.cu or linear_f32.cu computes it. */
Status multiply_cuda(const Product& product, Ending ending, DType dtype, bool prompt, CudaContext& context);

/** The way of many rows, however many there are; not int8, and not kBlock. It needs no scratch memory, which may hold what is multiplied. */
Status multiply_many_rows_cuda(const Product& product, Ending ending, DType dtype, CudaContext& context);

/** Any rows, in blocks of at most 64; `w` of `dtype`, x and operand of the same or, with int8, bf16. A row's bits depend on nothing but itself. */
Status multiply_decode_mma(const ProductList& list, DType dtype, CudaContext& context);

/** Many rows; f16 or bf16. kStore, kAdd and kGate. */
Status multiply_prompt_mma(const Product& product, Ending ending, DType dtype, CudaContext& context);

/** f32 throughout, by fused multiply-adds: few rows, and many. kStore, kAdd, kBlock and kApart. */
Status multiply_decode_f32(const ProductList& list, CudaContext& context);
Status multiply_prompt_f32(const Product& product, Ending ending, CudaContext& context);

/** Rows [first, first + rows) of an int8 weight as cores of bf16, without their scales; `first` is a multiple of 64. */
Status widen_int8(const void* w, int64_t first, int64_t rows, int64_t depth, void* to, CudaContext& context);

}  // namespace gorgon
