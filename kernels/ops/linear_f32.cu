// Products of f32 by fused multiply-adds: exact enough for models whose weights are f32, which are small.
//
// Few rows: a block per 8 rows of the weight (16 of a gated one are two blocks) and per 8 tokens; its 8 warps take turns at the blocks of depth.
// A row group's cores of one block are 2 KiB that follow each other, so a warp's 16-byte loads take 512 neighbouring bytes:
//
//   lane l: core l / 16 of two, row l % 16 / 2, depths 4 (l % 2) to + 3
//
// A token's sum is four lanes' chains, added by two shuffles, then the warps' sums in the order of warps: nothing in it knows the other tokens.
//
// Many rows: 64 x 64 tiles, 4 x 4 of them a thread's, each sum one chain in the order of depth. 16 of depth are staged in shared memory.
#include "ops/linear_endings.cuh"

namespace gorgon {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTokens = 8;

__global__ void __launch_bounds__(kThreads) multiply_decode_lanes_kernel(const __grid_constant__ ProductList list) {
  __shared__ float sums[kWarps][kTokens][kCore];
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const Product& product = list.items[blockIdx.z];
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kCore, first_row = static_cast<int64_t>(blockIdx.y) * kTokens;
  const int64_t blocks = depth_blocks(product.depth);
  const float* w = static_cast<const float*>(product.w) + column / kBlock * blocks * kBlockElements + column % kBlock / kCore * (kBlock * kCore) + lane * 4;
  const float* x = static_cast<const float*>(product.x) + first_row / kBlock * blocks * kBlockElements + first_row % kBlock / kCore * (kBlock * kCore) +
                   lane / 16 * kCoreElements + lane % 2 * 4;
  let_next_start();
  wait_for_previous();
  float sum[kTokens] = {};
  for (int64_t block = warp; block < blocks; block += kWarps) {
    float4 weights[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) weights[i] = __ldg(reinterpret_cast<const float4*>(w + block * kBlockElements + i * 2 * kCoreElements));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int token = 0; token < kTokens; ++token) {
        const float4 value = *reinterpret_cast<const float4*>(x + block * kBlockElements + i * 2 * kCoreElements + token * kCore);
        sum[token] = fmaf(weights[i].x, value.x, sum[token]);
        sum[token] = fmaf(weights[i].y, value.y, sum[token]);
        sum[token] = fmaf(weights[i].z, value.z, sum[token]);
        sum[token] = fmaf(weights[i].w, value.w, sum[token]);
      }
    }
  }
#pragma unroll
  for (int token = 0; token < kTokens; ++token) {
    sum[token] += __shfl_xor_sync(kAllLanes, sum[token], 1);
    sum[token] += __shfl_xor_sync(kAllLanes, sum[token], 16);
    if (lane < 16 && lane % 2 == 0) sums[warp][token][lane / 2] = sum[token];
  }
  __syncthreads();
  const int token = threadIdx.x / kCore, row = threadIdx.x % kCore;
  if (token >= kTokens || first_row + token >= product.rows || column + row >= product.columns) return;
  float total = sums[0][token][row];
#pragma unroll
  for (int other = 1; other < kWarps; ++other) total += sums[other][token][row];
  end_value<float>(product, list.ending, first_row + token, column + row, total);
}

constexpr int kTile = 64, kStep = 16, kOwn = 4;

__global__ void __launch_bounds__(kThreads) multiply_prompt_tiles_kernel(const __grid_constant__ Product product, Ending ending) {
  // [depth][row]: a thread's 4 rows and 4 columns are one load each; 4 more so that writes of neighbouring rows spread over the banks.
  __shared__ __align__(16) float rows[kStep][kTile + 4];
  __shared__ __align__(16) float columns[kStep][kTile + 4];
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kTile, first_row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int64_t blocks = depth_blocks(product.depth), steps = blocks * (kBlock / kStep);
  const int own_row = threadIdx.x / 16 * kOwn, own_column = threadIdx.x % 16 * kOwn;
  // What this thread stages: 4 of depth of one row, of 64 rows by 2 cores of depth.
  const int staged_row = threadIdx.x / 16 * 8 % 64 + threadIdx.x % 16 / 2, staged_depth = threadIdx.x / 128 * 8 + threadIdx.x % 2 * 4;
  const int64_t staged = core_element(staged_row, staged_depth, kBlock);
  const float* w = static_cast<const float*>(product.w) + first_column / kBlock * blocks * kBlockElements + staged;
  const float* x = static_cast<const float*>(product.x) + first_row / kBlock * blocks * kBlockElements + staged;
  let_next_start();
  wait_for_previous();
  float sum[kOwn][kOwn] = {};
  for (int64_t step = 0; step < steps; ++step) {
    const int64_t at = step / 4 * kBlockElements + step % 4 * 2 * kCoreElements;
    const float4 from_x = *reinterpret_cast<const float4*>(x + at), from_w = __ldg(reinterpret_cast<const float4*>(w + at));
    __syncthreads();  // the step before has been read
    rows[staged_depth][staged_row] = from_x.x, rows[staged_depth + 1][staged_row] = from_x.y;
    rows[staged_depth + 2][staged_row] = from_x.z, rows[staged_depth + 3][staged_row] = from_x.w;
    columns[staged_depth][staged_row] = from_w.x, columns[staged_depth + 1][staged_row] = from_w.y;
    columns[staged_depth + 2][staged_row] = from_w.z, columns[staged_depth + 3][staged_row] = from_w.w;
    __syncthreads();  // this step is staged
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      const float4 a = *reinterpret_cast<const float4*>(&rows[k][own_row]), b = *reinterpret_cast<const float4*>(&columns[k][own_column]);
      const float of_row[kOwn] = {a.x, a.y, a.z, a.w}, of_column[kOwn] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
#pragma unroll
        for (int j = 0; j < kOwn; ++j) sum[i][j] = fmaf(of_row[i], of_column[j], sum[i][j]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
#pragma unroll
    for (int j = 0; j < kOwn; ++j) {
      const int64_t row = first_row + own_row + i, column = first_column + own_column + j;
      if (row < product.rows && column < product.columns) end_value<float>(product, ending, row, column, sum[i][j]);
    }
  }
}

unsigned pieces(int64_t count, int64_t size) { return static_cast<unsigned>((count + size - 1) / size); }

}  // namespace

Status multiply_decode_f32(const ProductList& list, CudaContext& context) {
  const Product& shape = list.items[0];
  const dim3 grid(pieces(shape.columns, kCore), pieces(shape.rows, kTokens), static_cast<unsigned>(list.count));
  return launch(context, "multiply_decode_f32", multiply_decode_lanes_kernel, grid, dim3(kThreads), 0, list);
}

Status multiply_prompt_f32(const Product& product, Ending ending, CudaContext& context) {
  const dim3 grid(pieces(product.columns, kTile), pieces(product.rows, kTile));
  return launch(context, "multiply_prompt_f32", multiply_prompt_tiles_kernel, grid, dim3(kThreads), 0, product, ending);
}

}  // namespace gorgon
